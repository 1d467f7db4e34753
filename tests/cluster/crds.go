package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// installDefinitions creates what stands in the folder and waits until the API server serves it. The definitions come
// first: the folder also has a policy that refuses to change them, as it should afterwards.
func installDefinitions(ctx context.Context, config *rest.Config, folder string, wait func(string, func() error) error) error {
	objects, err := readManifests(folder)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	var names []string
	for _, object := range objects {
		if object.GetKind() == "CustomResourceDefinition" {
			names = append(names, object.GetName())
			if err := create(ctx, client, object); err != nil {
				return err
			}
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("%s has no custom resource definition", folder)
	}
	for _, name := range names {
		if err := wait("definition "+name, func() error { return established(ctx, client, name) }); err != nil {
			return err
		}
	}
	for _, object := range objects {
		if object.GetKind() != "CustomResourceDefinition" {
			if err := create(ctx, client, object); err != nil {
				return err
			}
		}
	}
	return nil
}

func readManifests(folder string) ([]*unstructured.Unstructured, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for _, path := range files {
		if filepath.Base(path) == "kustomization.yaml" {
			continue
		}
		found, err := readManifest(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

func readManifest(path string) ([]*unstructured.Unstructured, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(file, 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

// create knows only cluster-wide kinds whose plural is the ordinary one.
func create(ctx context.Context, client dynamic.Interface, object *unstructured.Unstructured) error {
	kind := object.GroupVersionKind()
	resource, _ := meta.UnsafeGuessKindToResource(kind)
	_, err := client.Resource(resource).Create(ctx, object, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%s %s: %w", strings.ToLower(kind.Kind), object.GetName(), err)
	}
	return nil
}

func established(ctx context.Context, client dynamic.Interface, name string) error {
	object, err := client.Resource(definitions).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range conditions {
		condition, _ := entry.(map[string]any)
		if condition["type"] == "Established" && condition["status"] == "True" {
			return nil
		}
	}
	return errors.New("not established yet")
}
