// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata/metadatainformer"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// ErrCrashed is what a client gets whose process has crashed.
var ErrCrashed = errors.New("the process crashed")

// API is an API server in memory with the manners that controllers depend on and client-go's fake lacks: UIDs, generated names, resource versions with conflicts,
// generations, a status subresource that is apart from the spec, graceful deletion of bound pods, and finalizers.
type API struct {
	t       testing.TB
	clock   clock.PassiveClock
	mu      sync.Mutex
	tracker clienttesting.ObjectTracker
	version int
	uid     int
	watches map[schema.GroupVersionResource][]watcher

	// Wrote, when set, is called after every successful write, with the API locked.
	Wrote func(verb string, gvr schema.GroupVersionResource, obj runtime.Object)
}

// watcher is somebody who watches the objects of one type in one namespace, or in all ("").
type watcher struct {
	namespace string
	watch     *lagging
}

// NewAPI returns an empty API server. Its clients must not outlive the test.
func NewAPI(t testing.TB, objs ...runtime.Object) *API {
	a := &API{
		t: t, clock: clock.RealClock{}, version: 100, tracker: clienttesting.NewObjectTracker(scheme.Scheme, scheme.Codecs.UniversalDecoder()),
		watches: map[schema.GroupVersionResource][]watcher{},
	}
	client := a.Client(nil)
	for _, obj := range objs {
		gvk := obj.GetObjectKind().GroupVersionKind()
		if gvk.Empty() {
			kinds, _, err := scheme.Scheme.ObjectKinds(obj)
			if err != nil {
				t.Fatal(err)
			}
			gvk = kinds[0]
		}
		gvr, _ := meta.UnsafeGuessKindToResource(gvk)
		m, err := meta.Accessor(obj)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Invokes(clienttesting.NewCreateAction(gvr, m.GetNamespace(), obj.DeepCopyObject()), nil); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// Client returns a client. Each of its writes asks before, which may refuse it with an error; nil refuses nothing.
func (a *API) Client(before func(clienttesting.Action) error) *fake.Clientset {
	return a.client(before, &Lag{})
}

// client returns a client whose watches lag as lag says.
func (a *API) client(before func(clienttesting.Action) error, lag *Lag) *fake.Clientset {
	c := &fake.Clientset{}
	c.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		switch action.GetVerb() {
		case "create", "update", "patch", "delete":
			if before != nil {
				if err := before(action); err != nil {
					return true, nil, err
				}
			}
			obj, err := a.write(action)
			return true, obj, err
		}
		return clienttesting.ObjectReaction(a.tracker)(action)
	})
	c.AddWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		w := lag.watch()
		a.watches[action.GetResource()] = append(a.watches[action.GetResource()], watcher{action.GetNamespace(), w})
		return true, w, nil
	})
	return c
}

// Context returns a controller's surroundings on client. Start the informers after the controller was constructed.
func (a *API) Context(client *fake.Clientset) (*controller.Context, *Events) {
	events := &Events{}
	md := metadataClient{client}
	anything := func(clienttesting.Action) error { return nil }
	return &controller.Context{
		Client: client, Dynamic: scales(client, anything), Metadata: md, Discovery: Discovery(), Mapper: newMapper(),
		Identify: a.identify, Reader: client,
		Informers: informers.NewSharedInformerFactory(client, 0), MetadataInformers: metadatainformer.NewSharedInformerFactory(md, 0),
		Events: events, Clock: clock.RealClock{}, Settings: controller.Settings{Workers: 2},
	}, events
}

func (a *API) write(action clienttesting.Action) (runtime.Object, error) {
	gvr, ns := action.GetResource(), action.GetNamespace()
	switch action := action.(type) {
	case clienttesting.CreateActionImpl:
		switch action.Subresource {
		case "binding":
			return a.bind(gvr, ns, action.Object.(*corev1.Binding))
		case "finalize":
			return a.update(gvr, ns, "finalize", action.Object.DeepCopyObject())
		}
		return a.create(gvr, ns, action.Object.DeepCopyObject())
	case clienttesting.UpdateActionImpl:
		return a.update(gvr, ns, action.Subresource, action.Object.DeepCopyObject())
	case clienttesting.PatchActionImpl:
		return a.patch(gvr, ns, action)
	case clienttesting.DeleteActionImpl:
		return nil, a.delete(gvr, ns, action.Name, action.DeleteOptions)
	}
	return nil, fmt.Errorf("%T is not supported", action)
}

func (a *API) create(gvr schema.GroupVersionResource, ns string, obj runtime.Object) (runtime.Object, error) {
	m := accessor(obj)
	a.uid++
	if m.GetName() == "" {
		m.SetName(fmt.Sprintf("%s%05d", m.GetGenerateName(), a.uid))
	}
	m.SetNamespace(ns)
	m.SetUID(types.UID(fmt.Sprintf("uid-%05d", a.uid)))
	m.SetCreationTimestamp(metav1.NewTime(a.clock.Now()))
	m.SetGeneration(1)
	a.stamp(m)
	if err := a.tracker.Create(gvr, obj, ns); err != nil {
		return nil, err
	}
	return a.done("create", watch.Added, gvr, obj), nil
}

func (a *API) update(gvr schema.GroupVersionResource, ns, subresource string, obj runtime.Object) (runtime.Object, error) {
	m := accessor(obj)
	had, err := a.tracker.Get(gvr, ns, m.GetName())
	if err != nil {
		return nil, err
	}
	was := accessor(had)
	if v := m.GetResourceVersion(); v != "" && v != was.GetResourceVersion() {
		return nil, apierrors.NewConflict(gvr.GroupResource(), m.GetName(), fmt.Errorf("version %s is not the current %s", v, was.GetResourceVersion()))
	}
	from, to := fields(had), fields(obj)
	if subresource == "status" || subresource == "approval" {
		status := to["status"]
		meta := from["metadata"].(map[string]any)
		meta["annotations"] = to["metadata"].(map[string]any)["annotations"]
		to = from
		to["status"] = status
	} else if _, kind := from["spec"]; kind {
		to["status"] = from["status"]
	}
	if gvr.Resource == "namespaces" && subresource == "" {
		to["spec"] = from["spec"] // its finalizers have a subresource of their own
	}
	before := fields(had)
	obj = a.from(to, had)
	m = accessor(obj)
	m.SetUID(was.GetUID())
	m.SetCreationTimestamp(was.GetCreationTimestamp())
	m.SetDeletionTimestamp(was.GetDeletionTimestamp())
	m.SetGeneration(was.GetGeneration())
	if !equality.Semantic.DeepEqual(before["spec"], to["spec"]) || !equality.Semantic.DeepEqual(before["endpoints"], to["endpoints"]) { // slices have no spec
		m.SetGeneration(was.GetGeneration() + 1)
	}
	m.SetResourceVersion(was.GetResourceVersion())
	if equality.Semantic.DeepEqual(had, obj) {
		return obj, nil
	}
	if m.GetDeletionTimestamp() != nil && !held(obj) && gvr.Resource != "pods" {
		return obj, a.remove(gvr, obj)
	}
	a.stamp(m)
	if err := a.tracker.Update(gvr, obj, ns); err != nil {
		return nil, err
	}
	return a.done("update", watch.Modified, gvr, obj), a.reap(gvr, obj)
}

// reap removes what was deleted without grace as soon as no finalizer holds it.
func (a *API) reap(gvr schema.GroupVersionResource, obj runtime.Object) error {
	m := accessor(obj)
	if g := m.GetDeletionGracePeriodSeconds(); m.GetDeletionTimestamp() != nil && !held(obj) && g != nil && *g == 0 {
		return a.remove(gvr, obj)
	}
	return nil
}

func (a *API) patch(gvr schema.GroupVersionResource, ns string, action clienttesting.PatchActionImpl) (runtime.Object, error) {
	had, err := a.tracker.Get(gvr, ns, action.Name)
	if err != nil {
		return nil, err
	}
	var wants struct {
		Metadata struct {
			UID             types.UID `json:"uid"`
			ResourceVersion string    `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(action.Patch, &wants); err != nil {
		return nil, err
	}
	was := accessor(had)
	if uid := wants.Metadata.UID; uid != "" && uid != was.GetUID() {
		return nil, apierrors.NewConflict(gvr.GroupResource(), action.Name, errors.New("the UID is another"))
	}
	body, err := json.Marshal(had)
	if err != nil {
		return nil, err
	}
	if action.PatchType == types.StrategicMergePatchType {
		body, err = strategicpatch.StrategicMergePatch(body, action.Patch, had)
	} else {
		body, err = jsonpatch.MergePatch(body, action.Patch)
	}
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, err
	}
	return a.update(gvr, ns, action.Subresource, a.from(out, had))
}

func (a *API) delete(gvr schema.GroupVersionResource, ns, name string, o metav1.DeleteOptions) error {
	had, err := a.tracker.Get(gvr, ns, name)
	if err != nil {
		return err
	}
	obj := had.DeepCopyObject()
	m := accessor(obj)
	if p := o.Preconditions; p != nil && (p.UID != nil && *p.UID != m.GetUID() || p.ResourceVersion != nil && *p.ResourceVersion != m.GetResourceVersion()) {
		return apierrors.NewConflict(gvr.GroupResource(), name, errors.New("the precondition does not hold"))
	}
	grace := int64(0)
	if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" && !controller.Finished(pod) {
		grace = 30
		if o.GracePeriodSeconds != nil {
			grace = *o.GracePeriodSeconds
		}
	}
	propagate(m, o.PropagationPolicy)
	if grace == 0 && !held(obj) {
		return a.remove(gvr, obj)
	}
	if m.GetDeletionTimestamp() != nil && slices.Equal(m.GetFinalizers(), accessor(had).GetFinalizers()) && (m.GetDeletionGracePeriodSeconds() == nil || *m.GetDeletionGracePeriodSeconds() <= grace) {
		return nil
	}
	if m.GetDeletionTimestamp() == nil {
		now := metav1.NewTime(a.clock.Now())
		m.SetDeletionTimestamp(&now)
	}
	m.SetDeletionGracePeriodSeconds(&grace)
	a.stamp(m)
	if err := a.tracker.Update(gvr, obj, ns); err != nil {
		return err
	}
	a.done("delete", watch.Modified, gvr, obj)
	return nil
}

// propagate sets the finalizers by which a deletion tells the garbage collector how it is meant.
func propagate(m metav1.Object, policy *metav1.DeletionPropagation) {
	if policy == nil {
		return
	}
	kept := controller.Filter(m.GetFinalizers(), func(f string) bool {
		return f != metav1.FinalizerDeleteDependents && f != metav1.FinalizerOrphanDependents
	})
	switch *policy {
	case metav1.DeletePropagationForeground:
		kept = append(kept, metav1.FinalizerDeleteDependents)
	case metav1.DeletePropagationOrphan:
		kept = append(kept, metav1.FinalizerOrphanDependents)
	}
	m.SetFinalizers(kept)
}

// held reports whether finalizers keep a deleted object.
func held(obj runtime.Object) bool {
	if ns, ok := obj.(*corev1.Namespace); ok && len(ns.Spec.Finalizers) > 0 {
		return true
	}
	return len(accessor(obj).GetFinalizers()) > 0
}

func (a *API) bind(gvr schema.GroupVersionResource, ns string, b *corev1.Binding) (runtime.Object, error) {
	had, err := a.tracker.Get(gvr, ns, b.Name)
	if err != nil {
		return nil, err
	}
	pod := had.DeepCopyObject().(*corev1.Pod)
	pod.Spec.NodeName = b.Target.Name
	return a.update(gvr, ns, "", pod)
}

func (a *API) remove(gvr schema.GroupVersionResource, obj runtime.Object) error {
	m := accessor(obj)
	if err := a.tracker.Delete(gvr, m.GetNamespace(), m.GetName()); err != nil {
		return err
	}
	a.done("remove", watch.Deleted, gvr, obj)
	return nil
}

func (a *API) stamp(m metav1.Object) {
	a.version++
	m.SetResourceVersion(fmt.Sprint(a.version))
}

// done tells of a write: the watches, which the tracker would tell through channels of a fixed size, and the test.
func (a *API) done(verb string, event watch.EventType, gvr schema.GroupVersionResource, obj runtime.Object) runtime.Object {
	a.watches[gvr] = slices.DeleteFunc(a.watches[gvr], func(w watcher) bool { return w.watch.stopped() })
	for _, w := range a.watches[gvr] {
		if w.namespace == "" || w.namespace == accessor(obj).GetNamespace() {
			w.watch.publish(watch.Event{Type: event, Object: obj.DeepCopyObject()})
		}
	}
	if a.Wrote != nil {
		a.Wrote(verb, gvr, obj)
	}
	return obj
}

// List calls f with every object of a type, for the use in Wrote.
func (a *API) List(gvr schema.GroupVersionResource, kind string, f func(runtime.Object)) {
	list, err := a.tracker.List(gvr, gvr.GroupVersion().WithKind(kind), "")
	if err != nil {
		a.t.Fatal(err)
	}
	if err := meta.EachListItem(list, func(o runtime.Object) error { f(o); return nil }); err != nil {
		a.t.Fatal(err)
	}
}

func accessor(obj runtime.Object) metav1.Object {
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(err)
	}
	return m
}

func fields(obj runtime.Object) map[string]any {
	body, err := json.Marshal(obj)
	if err != nil {
		panic(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(body, &out); err != nil {
		panic(err)
	}
	return out
}

// from makes an object of like's type from fields.
func (a *API) from(fields map[string]any, like runtime.Object) runtime.Object {
	body, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	kinds, _, err := scheme.Scheme.ObjectKinds(like)
	if err != nil {
		panic(err)
	}
	out, err := scheme.Scheme.New(kinds[0])
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(body, out); err != nil {
		panic(err)
	}
	return out
}

// Events collects events instead of sending them.
type Events struct {
	mu  sync.Mutex
	all []string
}

// All returns the events so far as "Type Reason message".
func (e *Events) All() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.all...)
}

func (e *Events) Event(_ runtime.Object, kind, reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, kind+" "+reason+" "+message)
}

func (e *Events) Eventf(obj runtime.Object, kind, reason, format string, args ...any) {
	e.Event(obj, kind, reason, fmt.Sprintf(format, args...))
}

func (e *Events) AnnotatedEventf(obj runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	e.Eventf(obj, kind, reason, format, args...)
}
