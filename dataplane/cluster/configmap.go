// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// WatchConfigMap sends the value of one key of one ConfigMap to out, "" when there is none, and again whenever it changes, until ctx ends. The client's user must be allowed to list and watch that ConfigMap by its name.
func WatchConfigMap(ctx context.Context, c kubernetes.Interface, namespace, name, key string, out chan<- string) {
	one := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			one(&o)
			return c.CoreV1().ConfigMaps(namespace).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			one(&o)
			return c.CoreV1().ConfigMaps(namespace).Watch(ctx, o)
		},
	}
	store := &configMapValue{ctx: ctx, name: name, key: key, out: out}
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, c), &corev1.ConfigMap{}, store, cache.ReflectorOptions{Name: "configmap " + name}).RunWithContext(ctx)
}

// configMapValue is the reflector's destination; one goroutine calls it.
type configMapValue struct {
	ctx             context.Context // ends a send that nobody takes any more
	name, key, last string
	sent            bool
	out             chan<- string
}

func (v *configMapValue) Add(obj any) error    { return v.set(obj) }
func (v *configMapValue) Update(obj any) error { return v.set(obj) }
func (v *configMapValue) Delete(any) error     { return v.set(nil) }
func (v *configMapValue) Resync() error        { return nil }

func (v *configMapValue) Replace(list []any, _ string) error {
	for _, obj := range list {
		if m, ok := obj.(*corev1.ConfigMap); ok && m.Name == v.name {
			return v.set(m)
		}
	}
	return v.set(nil)
}

func (v *configMapValue) set(obj any) error {
	value := ""
	if m, ok := obj.(*corev1.ConfigMap); ok {
		value = m.Data[v.key]
	}
	if v.sent && value == v.last {
		return nil
	}
	select {
	case v.out <- value:
		v.last, v.sent = value, true
	case <-v.ctx.Done():
	}
	return nil
}
