// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/downward"
)

// Source finds the content of volumes. A config map or secret that does not exist is (nil, nil).
type Source struct {
	ConfigMap func(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret    func(ctx context.Context, namespace, name string) (*v1.Secret, error)
	// Token returns a token of the pod's service account, fresh enough to last.
	Token func(ctx context.Context, pod *v1.Pod, audience string, seconds *int64) (string, error)
	// TrustBundle returns the PEM certificates of cluster trust bundles.
	TrustBundle func(ctx context.Context, projection *v1.ClusterTrustBundleProjection) ([]byte, error)
	// Claim returns a claim that is bound, with its volume.
	Claim func(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, *v1.PersistentVolume, error)
}

// content collects the files of one volume.
type content struct {
	ctx    context.Context
	pod    *v1.Pod
	source Source
	facts  downward.Facts
	files  map[string]File
}

func (c *content) configMap(name string, items []v1.KeyToPath, mode int32, optional *bool) error {
	m, err := c.source.ConfigMap(c.ctx, c.pod.Namespace, name)
	if err != nil {
		return err
	}
	if m == nil {
		if optional != nil && *optional {
			return nil
		}
		return fmt.Errorf("configmap %q not found", name)
	}
	data := map[string][]byte{}
	for key, value := range m.Data {
		data[key] = []byte(value)
	}
	for key, value := range m.BinaryData {
		data[key] = value
	}
	return c.keys("configmap", name, data, items, mode, optional)
}

func (c *content) secret(name string, items []v1.KeyToPath, mode int32, optional *bool) error {
	s, err := c.source.Secret(c.ctx, c.pod.Namespace, name)
	if err != nil {
		return err
	}
	if s == nil {
		if optional != nil && *optional {
			return nil
		}
		return fmt.Errorf("secret %q not found", name)
	}
	return c.keys("secret", name, s.Data, items, mode, optional)
}

func (c *content) keys(kind, name string, data map[string][]byte, items []v1.KeyToPath, mode int32, optional *bool) error {
	if len(items) == 0 {
		for key, value := range data {
			c.files[key] = File{Data: value, Mode: os.FileMode(mode)}
		}
		return nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return fmt.Errorf("%s %q references non-existent key: %s", kind, name, item.Key)
		}
		c.files[item.Path] = File{Data: value, Mode: modeOr(item.Mode, mode)}
	}
	return nil
}

func (c *content) downward(items []v1.DownwardAPIVolumeFile, mode int32) error {
	for i := range items {
		item := &items[i]
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = downward.Field(item.FieldRef.FieldPath, c.pod, c.facts)
		case item.ResourceFieldRef != nil:
			container := findContainer(c.pod, item.ResourceFieldRef.ContainerName)
			if container == nil {
				return fmt.Errorf("container %q of a downward API volume not found", item.ResourceFieldRef.ContainerName)
			}
			value, err = downward.Resource(item.ResourceFieldRef, container, c.facts)
		}
		if err != nil {
			return err
		}
		c.files[item.Path] = File{Data: []byte(value), Mode: modeOr(item.Mode, mode)}
	}
	return nil
}

func (c *content) projected(volume *v1.ProjectedVolumeSource) error {
	mode := defaultMode(volume.DefaultMode)
	for i := range volume.Sources {
		source := &volume.Sources[i]
		var err error
		switch {
		case source.ConfigMap != nil:
			err = c.configMap(source.ConfigMap.Name, source.ConfigMap.Items, mode, source.ConfigMap.Optional)
		case source.Secret != nil:
			err = c.secret(source.Secret.Name, source.Secret.Items, mode, source.Secret.Optional)
		case source.DownwardAPI != nil:
			err = c.downward(source.DownwardAPI.Items, mode)
		case source.ServiceAccountToken != nil:
			err = c.token(source.ServiceAccountToken, mode)
		case source.ClusterTrustBundle != nil && c.source.TrustBundle != nil:
			var data []byte
			if data, err = c.source.TrustBundle(c.ctx, source.ClusterTrustBundle); err == nil {
				c.files[source.ClusterTrustBundle.Path] = File{Data: data, Mode: os.FileMode(mode)}
			}
		default:
			err = fmt.Errorf("projected volume has a source of a kind that is not supported")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// token writes a service-account token. Without fsGroup it belongs to the user its containers run as, if they agree on one.
func (c *content) token(projection *v1.ServiceAccountTokenProjection, mode int32) error {
	token, err := c.source.Token(c.ctx, c.pod, projection.Audience, projection.ExpirationSeconds)
	if err != nil {
		return err
	}
	file := File{Data: []byte(token), Mode: os.FileMode(mode)}
	security := c.pod.Spec.SecurityContext
	if security != nil && security.FSGroup != nil {
		file.Mode = 0o600
	} else if user := onlyUser(c.pod); user != nil {
		file.Mode, file.UID = 0o600, user
	}
	c.files[projection.Path] = file
	return nil
}

// onlyUser is the user all containers run as when the spec says so, else nil.
func onlyUser(pod *v1.Pod) *int64 {
	var user *int64
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			var own *int64
			if s := pod.Spec.SecurityContext; s != nil {
				own = s.RunAsUser
			}
			if s := list[i].SecurityContext; s != nil && s.RunAsUser != nil {
				own = s.RunAsUser
			}
			if own == nil || user != nil && *user != *own {
				return nil
			}
			user = own
		}
	}
	return user
}

func findContainer(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func modeOr(mode *int32, fallback int32) os.FileMode {
	if mode != nil {
		return os.FileMode(*mode)
	}
	return os.FileMode(fallback)
}

func defaultMode(mode *int32) int32 {
	if mode != nil {
		return *mode
	}
	return 0o644
}
