// SPDX-License-Identifier: Apache-2.0

// Package objects holds the config maps and secrets that this node's pods refer to: one watch per object, kept as long as a pod
// refers to it. Reads come from memory once an object was seen; the first read waits for it.
package objects

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// firstRead is how long the first read of an object waits for its watch.
const firstRead = 10 * time.Second

// ErrNotReferenced says that a pod asks for an object it did not name in its spec when it was registered.
var ErrNotReferenced = errors.New("object is not referenced by any pod of this node")

// Ref names an object.
type Ref struct{ Kind, Namespace, Name string }

const (
	kindConfigMap = "ConfigMap"
	kindSecret    = "Secret"
)

// Cache holds the objects that pods refer to. Safe for concurrent use.
type Cache struct {
	ctx     context.Context
	client  kubernetes.Interface
	changed func(types.UID)

	mu      sync.Mutex
	watched map[Ref]*object
	byPod   map[types.UID]map[Ref]struct{}
	running sync.WaitGroup
}

type object struct {
	store  cache.Store
	synced func() bool
	cancel context.CancelFunc
	pods   map[types.UID]struct{}
}

// New returns a cache whose watches end with ctx. changed is called, from the watches' goroutines, with each pod whose objects changed.
func New(ctx context.Context, client kubernetes.Interface, changed func(types.UID)) *Cache {
	return &Cache{ctx: ctx, client: client, changed: changed, watched: map[Ref]*object{}, byPod: map[types.UID]map[Ref]struct{}{}}
}

// Wait returns when all watches have ended, which they do after the cache's context.
func (c *Cache) Wait() { c.running.Wait() }

// Register starts watching what pod refers to and stops watching what it no longer does.
func (c *Cache) Register(pod *v1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := map[Ref]struct{}{}
	for _, ref := range References(pod) {
		wanted[ref] = struct{}{}
		if c.watched[ref] == nil {
			c.watched[ref] = c.watch(ref)
		}
		c.watched[ref].pods[pod.UID] = struct{}{}
	}
	c.drop(pod.UID, wanted)
	c.byPod[pod.UID] = wanted
}

// Forget ends pod's interest. Forgetting a pod that is not registered does nothing.
func (c *Cache) Forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(uid, nil)
	delete(c.byPod, uid)
}

func (c *Cache) drop(uid types.UID, keep map[Ref]struct{}) {
	for ref := range c.byPod[uid] {
		if _, ok := keep[ref]; ok {
			continue
		}
		o := c.watched[ref]
		delete(o.pods, uid)
		if len(o.pods) == 0 {
			o.cancel()
			delete(c.watched, ref)
		}
	}
}

func (c *Cache) watch(ref Ref) *object {
	ctx, cancel := context.WithCancel(c.ctx)
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, ref.Name).String()
	lister := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			if ref.Kind == kindSecret {
				return c.client.CoreV1().Secrets(ref.Namespace).List(ctx, options)
			}
			return c.client.CoreV1().ConfigMaps(ref.Namespace).List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			if ref.Kind == kindSecret {
				return c.client.CoreV1().Secrets(ref.Namespace).Watch(ctx, options)
			}
			return c.client.CoreV1().ConfigMaps(ref.Namespace).Watch(ctx, options)
		},
	}
	var example runtime.Object = &v1.ConfigMap{}
	if ref.Kind == kindSecret {
		example = &v1.Secret{}
	}
	notify := func(any) { c.notify(ref) }
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lister, ObjectType: example,
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: notify, UpdateFunc: func(_, _ any) { c.notify(ref) }, DeleteFunc: notify},
	})
	c.running.Go(func() { controller.RunWithContext(ctx) })
	return &object{store: store, synced: controller.HasSynced, cancel: cancel, pods: map[types.UID]struct{}{}}
}

func (c *Cache) notify(ref Ref) {
	c.mu.Lock()
	var pods []types.UID
	if o := c.watched[ref]; o != nil {
		for uid := range o.pods {
			pods = append(pods, uid)
		}
	}
	c.mu.Unlock()
	for _, uid := range pods {
		c.changed(uid)
	}
}

// ConfigMap returns a config map, nil when it does not exist.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	found, err := c.get(ctx, Ref{kindConfigMap, namespace, name})
	if found == nil || err != nil {
		return nil, err
	}
	return found.(*v1.ConfigMap), nil
}

// Secret returns a secret, nil when it does not exist.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	found, err := c.get(ctx, Ref{kindSecret, namespace, name})
	if found == nil || err != nil {
		return nil, err
	}
	return found.(*v1.Secret), nil
}

func (c *Cache) get(ctx context.Context, ref Ref) (any, error) {
	c.mu.Lock()
	o := c.watched[ref]
	c.mu.Unlock()
	if o == nil {
		return nil, fmt.Errorf("%s %s/%s: %w", ref.Kind, ref.Namespace, ref.Name, ErrNotReferenced)
	}
	if !o.synced() {
		if found, err := c.read(ctx, ref); !apierrors.IsNotFound(err) {
			return found, err
		}
		return nil, nil
	}
	found, exists, err := o.store.GetByKey(ref.Namespace + "/" + ref.Name)
	if err != nil || !exists {
		return nil, err
	}
	return found, nil
}

// read asks the API server, while the watch has not answered yet.
func (c *Cache) read(ctx context.Context, ref Ref) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, firstRead)
	defer cancel()
	if ref.Kind == kindSecret {
		return c.client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	}
	return c.client.CoreV1().ConfigMaps(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
}

// References lists the config maps and secrets a pod names.
func References(pod *v1.Pod) []Ref {
	var out []Ref
	add := func(kind, name string) {
		if name != "" {
			out = append(out, Ref{kind, pod.Namespace, name})
		}
	}
	for _, secret := range pod.Spec.ImagePullSecrets {
		add(kindSecret, secret.Name)
	}
	containers := append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
	for i := range pod.Spec.EphemeralContainers {
		containers = append(containers, v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	for i := range containers {
		for _, from := range containers[i].EnvFrom {
			if from.ConfigMapRef != nil {
				add(kindConfigMap, from.ConfigMapRef.Name)
			}
			if from.SecretRef != nil {
				add(kindSecret, from.SecretRef.Name)
			}
		}
		for _, variable := range containers[i].Env {
			if from := variable.ValueFrom; from != nil && from.ConfigMapKeyRef != nil {
				add(kindConfigMap, from.ConfigMapKeyRef.Name)
			} else if from != nil && from.SecretKeyRef != nil {
				add(kindSecret, from.SecretKeyRef.Name)
			}
		}
	}
	for _, volume := range pod.Spec.Volumes {
		switch {
		case volume.ConfigMap != nil:
			add(kindConfigMap, volume.ConfigMap.Name)
		case volume.Secret != nil:
			add(kindSecret, volume.Secret.SecretName)
		case volume.Projected != nil:
			for _, source := range volume.Projected.Sources {
				if source.ConfigMap != nil {
					add(kindConfigMap, source.ConfigMap.Name)
				}
				if source.Secret != nil {
					add(kindSecret, source.Secret.Name)
				}
			}
		}
	}
	return out
}
