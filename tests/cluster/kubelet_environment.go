package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"golang.org/x/sys/unix"
)

// plan works out how the container is to be started. On an error the reason is the one a node would show.
func (c *container) plan(ctx context.Context) (plan, string, error) {
	object := c.pod.latest()
	binary, ok := c.pod.kubelet.images.binary(c.spec.Image)
	if !ok {
		return plan{}, "ErrImagePull", fmt.Errorf("no entry of the image table begins like %s; give the rig --image PREFIX=BINARY", c.spec.Image)
	}
	environment, err := c.environment(ctx, object)
	if err != nil {
		return plan{}, "CreateContainerConfigError", err
	}
	mounts, err := c.mounts()
	if err != nil {
		return plan{}, "CreateContainerConfigError", err
	}
	expand := func(words []string) []string {
		var expanded []string
		mapping := expansion.MappingFuncFor(environment)
		for _, word := range words {
			expanded = append(expanded, expansion.Expand(word, mapping))
		}
		return expanded
	}
	argv := []string{filepath.Base(binary)}
	if len(c.spec.Command) > 0 {
		argv = expand(c.spec.Command)
	}
	p := plan{
		binary: binary, argv: append(argv, expand(c.spec.Args)...), folder: cmp.Or(c.spec.WorkingDir, "/"),
		root: filepath.Join(c.pod.folder, "roots", c.spec.Name), mounts: mounts, netns: c.pod.netns(),
		hostname: cmp.Or(object.Spec.Hostname, object.Name), hosts: hosts(object, c.pod.address()), resolver: resolver(object),
	}
	for name, value := range environment {
		p.environment = append(p.environment, name+"="+value)
	}
	slices.Sort(p.environment)
	p.user, p.ambient = c.identity(object)
	return p, "", nil
}

func hosts(object *v1.Pod, address string) string {
	text := "127.0.0.1\tlocalhost\n" + address + "\t" + object.Name + "\n" + nodeIP + "\tkubernetes.default.svc kubernetes.default kubernetes\n"
	for _, alias := range object.Spec.HostAliases {
		text += alias.IP + "\t" + strings.Join(alias.Hostnames, " ") + "\n"
	}
	return text
}

// resolver is empty unless the pod brings its own: the rig has no name server.
func resolver(object *v1.Pod) string {
	text := ""
	if config := object.Spec.DNSConfig; config != nil {
		for _, server := range config.Nameservers {
			text += "nameserver " + server + "\n"
		}
		if len(config.Searches) > 0 {
			text += "search " + strings.Join(config.Searches, " ") + "\n"
		}
		for _, option := range config.Options {
			text += "options " + option.Name
			if option.Value != nil {
				text += ":" + *option.Value
			}
			text += "\n"
		}
	}
	return text
}

// identity gives the user, and the capabilities that a user other than root keeps. Root keeps all of them: it is root in
// namespaces that end with the rig.
func (c *container) identity(object *v1.Pod) (*syscall.Credential, []uintptr) {
	var user, group *int64
	var groups []uint32
	if pod := object.Spec.SecurityContext; pod != nil {
		user, group = pod.RunAsUser, pod.RunAsGroup
		if pod.FSGroup != nil {
			groups = append(groups, uint32(*pod.FSGroup))
		}
		for _, supplemental := range pod.SupplementalGroups {
			groups = append(groups, uint32(supplemental))
		}
	}
	var ambient []uintptr
	if own := c.spec.SecurityContext; own != nil {
		user, group = cmp.Or(own.RunAsUser, user), cmp.Or(own.RunAsGroup, group)
		if own.Capabilities != nil {
			for _, capability := range own.Capabilities.Add {
				if number, ok := capabilities[strings.TrimPrefix(string(capability), "CAP_")]; ok {
					ambient = append(ambient, number)
				}
			}
		}
	}
	if user == nil && group == nil {
		return nil, nil
	}
	credential := &syscall.Credential{Groups: groups}
	if user != nil {
		credential.Uid = uint32(*user)
	}
	if group != nil {
		credential.Gid = uint32(*group)
	}
	if credential.Uid == 0 {
		ambient = nil
	}
	return credential, ambient
}

// capabilities that the pods of a proxy ask for.
var capabilities = map[string]uintptr{
	"NET_ADMIN":        unix.CAP_NET_ADMIN,
	"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
	"NET_RAW":          unix.CAP_NET_RAW,
	"SYS_PTRACE":       unix.CAP_SYS_PTRACE,
}

// environment is the container's own and nothing of this machine's.
func (c *container) environment(ctx context.Context, object *v1.Pod) (map[string]string, error) {
	environment := map[string]string{
		"PATH":     searchPath,
		"HOME":     "/root",
		"HOSTNAME": cmp.Or(object.Spec.Hostname, object.Name),
		// Not the Service's own address, which nothing routes here.
		"KUBERNETES_SERVICE_HOST": nodeIP,
		"KUBERNETES_SERVICE_PORT": "6443",
	}
	for _, source := range c.spec.EnvFrom {
		values, err := c.valuesFrom(ctx, object.Namespace, source)
		if err != nil {
			return nil, err
		}
		for name, value := range values {
			environment[source.Prefix+name] = value
		}
	}
	for _, variable := range c.spec.Env {
		value, ok := expansion.Expand(variable.Value, expansion.MappingFuncFor(environment)), true
		if variable.ValueFrom != nil {
			var err error
			if value, ok, err = c.valueFrom(ctx, object, variable.ValueFrom); err != nil {
				return nil, fmt.Errorf("variable %s: %w", variable.Name, err)
			}
		}
		if ok {
			environment[variable.Name] = value
		}
	}
	return environment, nil
}

func (c *container) valuesFrom(ctx context.Context, namespace string, source v1.EnvFromSource) (map[string]string, error) {
	switch {
	case source.ConfigMapRef != nil:
		return c.pod.configMap(ctx, namespace, source.ConfigMapRef.Name, source.ConfigMapRef.Optional)
	case source.SecretRef != nil:
		return c.pod.secret(ctx, namespace, source.SecretRef.Name, source.SecretRef.Optional)
	}
	return nil, nil
}

// valueFrom gives a variable's value; false where an optional source is not there.
func (c *container) valueFrom(ctx context.Context, object *v1.Pod, source *v1.EnvVarSource) (string, bool, error) {
	pick := func(values map[string]string, err error, kind, key string, optional *bool) (string, bool, error) {
		if err != nil {
			return "", false, err
		}
		value, ok := values[key]
		if !ok && (optional == nil || !*optional) {
			return "", false, fmt.Errorf("the %s has no key %s", kind, key)
		}
		return value, ok, nil
	}
	switch {
	case source.FieldRef != nil:
		value, err := c.pod.field(object, source.FieldRef.FieldPath)
		return value, true, err
	case source.ResourceFieldRef != nil:
		value, err := resource.ExtractResourceValueByContainerName(source.ResourceFieldRef, object, cmp.Or(source.ResourceFieldRef.ContainerName, c.spec.Name))
		return value, true, err
	case source.SecretKeyRef != nil:
		ref := source.SecretKeyRef
		values, err := c.pod.secret(ctx, object.Namespace, ref.Name, ref.Optional)
		return pick(values, err, "Secret "+ref.Name, ref.Key, ref.Optional)
	case source.ConfigMapKeyRef != nil:
		ref := source.ConfigMapKeyRef
		values, err := c.pod.configMap(ctx, object.Namespace, ref.Name, ref.Optional)
		return pick(values, err, "ConfigMap "+ref.Name, ref.Key, ref.Optional)
	}
	return "", false, fmt.Errorf("the rig does not know this source of a value")
}

// field is the downward API.
func (p *pod) field(object *v1.Pod, path string) (string, error) {
	switch path {
	case "status.podIP", "status.podIPs":
		return p.address(), nil
	case "status.hostIP", "status.hostIPs":
		return nodeIP, nil
	case "spec.nodeName":
		return object.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return object.Spec.ServiceAccountName, nil
	}
	return fieldpath.ExtractFieldPathAsString(object, path)
}

func (p *pod) secret(ctx context.Context, namespace, name string, optional *bool) (map[string]string, error) {
	secret, err := p.kubelet.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, unlessOptional(err, optional)
	}
	values := map[string]string{}
	for key, value := range secret.Data {
		values[key] = string(value)
	}
	return values, nil
}

func (p *pod) configMap(ctx context.Context, namespace, name string, optional *bool) (map[string]string, error) {
	config, err := p.kubelet.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, unlessOptional(err, optional)
	}
	values := map[string]string{}
	for key, value := range config.BinaryData {
		values[key] = string(value)
	}
	for key, value := range config.Data {
		values[key] = value
	}
	return values, nil
}

func unlessOptional(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	return err
}
