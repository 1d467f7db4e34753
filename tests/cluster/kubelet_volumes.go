package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/volume/util"
)

// How often the files of Secrets and ConfigMaps follow their objects: a real node takes up to a minute and a half.
const volumePeriod = 2 * time.Second

// files are the content of a volume by path within it.
type files map[string]util.FileProjection

// makeVolumes makes every volume's folder and fills it; afterwards the contents follow their objects.
func (p *pod) makeVolumes(ctx context.Context) error {
	object := p.latest()
	follow := false
	for i := range object.Spec.Volumes {
		volume := &object.Spec.Volumes[i]
		if volume.HostPath != nil {
			continue
		}
		if err := os.MkdirAll(p.volumeFolder(volume.Name), 0o777); err != nil {
			return err
		}
		if volume.EmptyDir != nil {
			// As on a node: whoever the containers run as may write.
			if err := os.Chmod(p.volumeFolder(volume.Name), 0o777); err != nil {
				return err
			}
			continue
		}
		follow = true
		if err := p.fill(ctx, object, volume); err != nil {
			return fmt.Errorf("volume %s: %w", volume.Name, err)
		}
	}
	if follow {
		go p.follow(ctx)
	}
	return nil
}

func (p *pod) volumeFolder(name string) string { return filepath.Join(p.folder, "volumes", name) }

func (p *pod) removeVolumes() { os.RemoveAll(p.folder) }

// follow brings changed objects into the volumes; a source that has gone leaves its last content.
func (p *pod) follow(ctx context.Context) {
	for p.stop.Err() == nil {
		sleep(p.stop, volumePeriod)
		object := p.latest()
		for i := range object.Spec.Volumes {
			volume := &object.Spec.Volumes[i]
			// Not the tokens: each would be a new one, and the first lasts longer than the rig.
			if volume.Secret != nil || volume.ConfigMap != nil {
				p.fill(ctx, object, volume)
			}
		}
	}
}

func (p *pod) fill(ctx context.Context, object *v1.Pod, volume *v1.Volume) error {
	content, err := p.content(ctx, object, volume)
	if err != nil {
		return err
	}
	// Swaps a link, so that a container sees the old files or the new ones.
	writer, err := util.NewAtomicWriter(p.volumeFolder(volume.Name), object.Namespace+"/"+object.Name)
	if err != nil {
		return err
	}
	return writer.Write(content, nil)
}

func (p *pod) content(ctx context.Context, object *v1.Pod, volume *v1.Volume) (files, error) {
	content := files{}
	switch {
	case volume.Secret != nil:
		values, err := p.secret(ctx, object.Namespace, volume.Secret.SecretName, volume.Secret.Optional)
		if err != nil {
			return nil, err
		}
		return content, content.add(values, volume.Secret.Items, mode(volume.Secret.DefaultMode), volume.Secret.Optional)
	case volume.ConfigMap != nil:
		values, err := p.configMap(ctx, object.Namespace, volume.ConfigMap.Name, volume.ConfigMap.Optional)
		if err != nil {
			return nil, err
		}
		return content, content.add(values, volume.ConfigMap.Items, mode(volume.ConfigMap.DefaultMode), volume.ConfigMap.Optional)
	case volume.DownwardAPI != nil:
		return content, p.addFields(content, object, volume.DownwardAPI.Items, mode(volume.DownwardAPI.DefaultMode))
	case volume.Projected != nil:
		for _, source := range volume.Projected.Sources {
			if err := p.project(ctx, content, object, source, mode(volume.Projected.DefaultMode)); err != nil {
				return nil, err
			}
		}
		return content, nil
	}
	return nil, fmt.Errorf("the rig does not know this kind of volume")
}

func mode(given *int32) int32 {
	if given == nil {
		return 0o644
	}
	return *given
}

func (p *pod) project(ctx context.Context, content files, object *v1.Pod, source v1.VolumeProjection, mode int32) error {
	switch {
	case source.Secret != nil:
		values, err := p.secret(ctx, object.Namespace, source.Secret.Name, source.Secret.Optional)
		if err != nil {
			return err
		}
		return content.add(values, source.Secret.Items, mode, source.Secret.Optional)
	case source.ConfigMap != nil:
		values, err := p.configMap(ctx, object.Namespace, source.ConfigMap.Name, source.ConfigMap.Optional)
		if err != nil {
			return err
		}
		return content.add(values, source.ConfigMap.Items, mode, source.ConfigMap.Optional)
	case source.DownwardAPI != nil:
		return p.addFields(content, object, source.DownwardAPI.Items, mode)
	case source.ServiceAccountToken != nil:
		token, err := p.token(ctx, object, source.ServiceAccountToken)
		if err != nil {
			return err
		}
		content[source.ServiceAccountToken.Path] = util.FileProjection{Data: []byte(token), Mode: mode}
		return nil
	}
	return fmt.Errorf("the rig does not know this source of a projected volume")
}

func (p *pod) token(ctx context.Context, object *v1.Pod, source *v1.ServiceAccountTokenProjection) (string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: object.Name, UID: object.UID},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	answer, err := p.kubelet.client.CoreV1().ServiceAccounts(object.Namespace).CreateToken(ctx, object.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return answer.Status.Token, nil
}

func (p *pod) addFields(content files, object *v1.Pod, items []v1.DownwardAPIVolumeFile, mode int32) error {
	for _, item := range items {
		if item.FieldRef == nil {
			return fmt.Errorf("%s: the rig knows only fieldRef", item.Path)
		}
		value, err := p.field(object, item.FieldRef.FieldPath)
		if err != nil {
			return err
		}
		content[item.Path] = util.FileProjection{Data: []byte(value), Mode: mode}
	}
	return nil
}

// add takes all keys, or those that items name, under the paths that they name.
func (f files) add(values map[string]string, items []v1.KeyToPath, mode int32, optional *bool) error {
	if len(items) == 0 {
		for key, value := range values {
			f[key] = util.FileProjection{Data: []byte(value), Mode: mode}
		}
	}
	for _, item := range items {
		value, ok := values[item.Key]
		if !ok && (optional == nil || !*optional) {
			return fmt.Errorf("there is no key %s", item.Key)
		}
		if ok {
			file := util.FileProjection{Data: []byte(value), Mode: mode}
			if item.Mode != nil {
				file.Mode = *item.Mode
			}
			f[item.Path] = file
		}
	}
	return nil
}

// mounts says what of the pod's volumes the container has, outer folders before inner ones.
func (c *container) mounts() ([]mount, error) {
	object := c.pod.latest()
	var mounts []mount
	for _, wanted := range c.spec.VolumeMounts {
		index := slices.IndexFunc(object.Spec.Volumes, func(v v1.Volume) bool { return v.Name == wanted.Name })
		if index < 0 {
			return nil, fmt.Errorf("there is no volume %s", wanted.Name)
		}
		volume := object.Spec.Volumes[index]
		source := c.pod.volumeFolder(volume.Name)
		if volume.HostPath != nil {
			source = volume.HostPath.Path
		}
		if wanted.SubPath != "" {
			source = filepath.Join(source, filepath.Join("/", wanted.SubPath))
			if volume.EmptyDir != nil {
				if err := os.MkdirAll(source, 0o777); err != nil {
					return nil, err
				}
			}
		}
		readOnly := wanted.ReadOnly || volume.EmptyDir == nil && volume.HostPath == nil
		mounts = append(mounts, mount{source, wanted.MountPath, readOnly})
	}
	slices.SortFunc(mounts, func(a, b mount) int { return strings.Compare(a.target, b.target) })
	return mounts, nil
}
