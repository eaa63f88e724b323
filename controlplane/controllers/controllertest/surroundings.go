// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/dynamic"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	clienttesting "k8s.io/client-go/testing"
)

// The types that discovery shows: enough of each sort for controllers that walk over all of them.
var shown = []struct {
	gvk        schema.GroupVersionKind
	namespaced bool
}{
	{corev1.SchemeGroupVersion.WithKind("Namespace"), false},
	{corev1.SchemeGroupVersion.WithKind("Node"), false},
	{corev1.SchemeGroupVersion.WithKind("Pod"), true},
	{corev1.SchemeGroupVersion.WithKind("ConfigMap"), true},
	{corev1.SchemeGroupVersion.WithKind("Secret"), true},
	{corev1.SchemeGroupVersion.WithKind("Service"), true},
	{corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"), true},
	{corev1.SchemeGroupVersion.WithKind("ReplicationController"), true},
	{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, true},
	{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}, true},
	{schema.GroupVersionKind{Group: "batch", Version: "v1", Kind: "Job"}, true},
	{schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"}, false},
	{schema.GroupVersionKind{Group: "resource.k8s.io", Version: "v1", Kind: "ResourceClaim"}, true},
}

// Discovery returns what the API shows of its types. A reactor on "get resource" makes it fail.
func Discovery() *fakediscovery.FakeDiscovery {
	lists := map[schema.GroupVersion]*metav1.APIResourceList{}
	d := &fakediscovery.FakeDiscovery{Fake: &clienttesting.Fake{}}
	for _, s := range shown {
		gv := s.gvk.GroupVersion()
		if lists[gv] == nil {
			lists[gv] = &metav1.APIResourceList{GroupVersion: gv.String()}
			d.Resources = append(d.Resources, lists[gv])
		}
		gvr, _ := meta.UnsafeGuessKindToResource(s.gvk)
		lists[gv].APIResources = append(lists[gv].APIResources, metav1.APIResource{
			Name: gvr.Resource, Kind: s.gvk.Kind, Namespaced: s.namespaced,
			Verbs: metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
		})
	}
	return d
}

// mapper maps the shown types.
type mapper struct{ meta.RESTMapper }

func (mapper) Reset() {}

func newMapper() mapper {
	m := meta.NewDefaultRESTMapper(nil)
	for _, s := range shown {
		scope := meta.RESTScopeRoot
		if s.namespaced {
			scope = meta.RESTScopeNamespace
		}
		m.Add(s.gvk, scope)
	}
	return mapper{m}
}

// scales is a dynamic client that reads the scale subresource of what client holds, as far as may allows it, and nothing else.
func scales(client *fake.Clientset, may func(clienttesting.Action) error) dynamic.Interface {
	d := dynamicfake.NewSimpleDynamicClient(runtime.NewScheme())
	d.PrependReactor("get", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		get, ok := a.(clienttesting.GetAction)
		if !ok || a.GetSubresource() != "scale" {
			return false, nil, nil
		}
		if err := may(a); err != nil {
			return true, nil, err
		}
		obj, err := client.Invokes(clienttesting.NewGetAction(a.GetResource(), a.GetNamespace(), get.GetName()), nil)
		if err != nil {
			return true, nil, err
		}
		spec, _ := fields(obj)["spec"].(map[string]any)
		n, _ := spec["replicas"].(float64)
		return true, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": map[string]any{"name": get.GetName()}, "spec": map[string]any{"replicas": int64(n)},
		}}, nil
	})
	return d
}

// metadataClient shows the metadata of what a typed client holds; its writes are the typed client's writes.
type metadataClient struct{ client *fake.Clientset }

// IsWatchListSemanticsUnSupported tells reflectors to list before they watch, as client-go's fakes do.
func (metadataClient) IsWatchListSemanticsUnSupported() bool { return true }

func (m metadataClient) Resource(gvr schema.GroupVersionResource) metadata.Getter {
	return metadataOf{m.client, gvr, ""}
}

type metadataOf struct {
	client    *fake.Clientset
	gvr       schema.GroupVersionResource
	namespace string
}

func (m metadataOf) Namespace(namespace string) metadata.ResourceInterface {
	return metadataOf{m.client, m.gvr, namespace}
}

func (m metadataOf) Delete(_ context.Context, name string, o metav1.DeleteOptions, _ ...string) error {
	_, err := m.client.Invokes(clienttesting.NewDeleteActionWithOptions(m.gvr, m.namespace, name, o), nil)
	return err
}

func (m metadataOf) DeleteCollection(ctx context.Context, o metav1.DeleteOptions, lo metav1.ListOptions) error {
	list, err := m.List(ctx, lo)
	if err != nil {
		return err
	}
	for _, item := range list.Items {
		if err := m.Delete(ctx, item.Name, o); err != nil {
			return err
		}
	}
	return nil
}

func (m metadataOf) Get(_ context.Context, name string, _ metav1.GetOptions, _ ...string) (*metav1.PartialObjectMetadata, error) {
	return only(m.client.Invokes(clienttesting.NewGetAction(m.gvr, m.namespace, name), nil))
}

func (m metadataOf) List(_ context.Context, o metav1.ListOptions) (*metav1.PartialObjectMetadataList, error) {
	gvk, err := m.kind()
	if err != nil {
		return nil, err
	}
	list, err := m.client.Invokes(clienttesting.NewListActionWithOptions(m.gvr, gvk, m.namespace, o), nil)
	if err != nil {
		return nil, err
	}
	out := &metav1.PartialObjectMetadataList{}
	return out, meta.EachListItem(list, func(obj runtime.Object) error {
		p, err := only(obj, nil)
		if err == nil {
			out.Items = append(out.Items, *p)
		}
		return err
	})
}

func (m metadataOf) Watch(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
	w, err := m.client.InvokesWatch(clienttesting.NewWatchActionWithOptions(m.gvr, m.namespace, o))
	if err != nil {
		return nil, err
	}
	c := &metadataWatch{inner: w, out: make(chan watch.Event), done: make(chan struct{})}
	go c.pump()
	return c, nil
}

// metadataWatch shows the metadata of what a watch shows.
type metadataWatch struct {
	inner watch.Interface
	out   chan watch.Event
	done  chan struct{}
	stop  sync.Once
}

func (c *metadataWatch) ResultChan() <-chan watch.Event { return c.out }

func (c *metadataWatch) Stop() {
	c.stop.Do(func() { close(c.done) })
	c.inner.Stop()
}

func (c *metadataWatch) pump() {
	for {
		select {
		case <-c.done:
			return
		case e := <-c.inner.ResultChan():
			p, err := only(e.Object, nil)
			if err != nil {
				panic(err) // the typed client holds what the scheme knows
			}
			select {
			case c.out <- watch.Event{Type: e.Type, Object: p}:
			case <-c.done:
			}
		}
	}
}

func (m metadataOf) Patch(_ context.Context, name string, t types.PatchType, body []byte, _ metav1.PatchOptions, sub ...string) (*metav1.PartialObjectMetadata, error) {
	return only(m.client.Invokes(clienttesting.NewPatchSubresourceAction(m.gvr, m.namespace, name, t, body, sub...), nil))
}

func (m metadataOf) kind() (schema.GroupVersionKind, error) {
	return newMapper().KindFor(m.gvr)
}

// only returns an object's metadata.
func only(obj runtime.Object, err error) (*metav1.PartialObjectMetadata, error) {
	if err != nil {
		return nil, err
	}
	p := meta.AsPartialObjectMetadata(accessor(obj)).DeepCopy()
	kinds, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil {
		return nil, err
	}
	p.SetGroupVersionKind(kinds[0])
	return p, nil
}
