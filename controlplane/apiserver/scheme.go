// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// served are the built-in group versions in the order in which discovery shows them, the preferred version of a group first.
var served = []struct {
	gv  schema.GroupVersion
	add func(*runtime.Scheme) error
}{
	{corev1.SchemeGroupVersion, corev1.AddToScheme},
	{eventsv1.SchemeGroupVersion, eventsv1.AddToScheme},
	{authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme},
	{authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme},
	{appsv1.SchemeGroupVersion, appsv1.AddToScheme},
	{autoscalingv2.SchemeGroupVersion, autoscalingv2.AddToScheme},
	{autoscalingv1.SchemeGroupVersion, autoscalingv1.AddToScheme},
	{batchv1.SchemeGroupVersion, batchv1.AddToScheme},
	{certificatesv1.SchemeGroupVersion, certificatesv1.AddToScheme},
	{networkingv1.SchemeGroupVersion, networkingv1.AddToScheme},
	{policyv1.SchemeGroupVersion, policyv1.AddToScheme},
	{rbacv1.SchemeGroupVersion, rbacv1.AddToScheme},
	{storagev1.SchemeGroupVersion, storagev1.AddToScheme},
	{admissionregistrationv1.SchemeGroupVersion, admissionregistrationv1.AddToScheme},
	{schedulingv1.SchemeGroupVersion, schedulingv1.AddToScheme},
	{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme},
	{nodev1.SchemeGroupVersion, nodev1.AddToScheme},
	{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme},
	{resourcev1.SchemeGroupVersion, resourcev1.AddToScheme},
	{flowcontrolv1.SchemeGroupVersion, flowcontrolv1.AddToScheme},
	{storagemigrationv1.SchemeGroupVersion, storagemigrationv1.AddToScheme},
	{metricsv1beta1.SchemeGroupVersion, metricsv1beta1.AddToScheme},
}

// types is what the API server knows about Go types.
//
// scheme serves requests and storage. k8s.io/apiserver wants a memory version ("__internal") of every kind; here that is the versioned type
// itself under a second name, so no conversion ever runs. openAPI lacks those second names, because a definition must belong to one version.
type types struct {
	scheme, openAPI *runtime.Scheme
	codecs          serializer.CodecFactory
	parameters      runtime.ParameterCodec
}

func newTypes(kinds []resource.Resource) (*types, error) {
	t := &types{scheme: runtime.NewScheme(), openAPI: runtime.NewScheme()}
	elsewhere, err := storedElsewhere(kinds)
	if err != nil {
		return nil, err
	}
	for _, s := range []*runtime.Scheme{t.scheme, t.openAPI} {
		metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
		for _, g := range served {
			if err := g.add(s); err != nil {
				return nil, fmt.Errorf("register %s: %w", g.gv, err)
			}
		}
	}
	priority := map[string][]schema.GroupVersion{}
	for _, g := range served {
		t.alias(g.gv, elsewhere)
		priority[g.gv.Group] = append(priority[g.gv.Group], g.gv)
	}
	for _, versions := range priority {
		if err := t.scheme.SetVersionPriority(versions...); err != nil {
			return nil, err
		}
	}
	for gvk, hub := range elsewhere {
		// Registering one type twice under one name is allowed; autoscaling/v2 is the memory version of its own group already.
		t.scheme.AddKnownTypeWithName(schema.GroupVersionKind{Group: gvk.Group, Version: runtime.APIVersionInternal, Kind: gvk.Kind}, hub)
	}
	for _, k := range kinds {
		if err := t.describe(k, kinds); err != nil {
			return nil, err
		}
	}
	if err := addQueryConversions(t.scheme); err != nil {
		return nil, err
	}
	t.codecs = serializer.NewCodecFactory(t.scheme, serializer.WithSerializer(cbor.NewSerializerInfo))
	t.parameters = runtime.NewParameterCodec(t.scheme)
	return t, nil
}

// alias registers gv's types as their own memory versions, except those that have another one.
func (t *types) alias(gv schema.GroupVersion, elsewhere map[schema.GroupVersionKind]runtime.Object) {
	meta := reflect.TypeOf(metav1.ObjectMeta{}).PkgPath()
	for kind, typ := range t.scheme.KnownTypes(gv) {
		if _, ok := elsewhere[gv.WithKind(kind)]; ok || typ.PkgPath() == meta {
			continue
		}
		obj := reflect.New(typ).Interface().(runtime.Object)
		t.scheme.AddKnownTypeWithName(schema.GroupVersionKind{Group: gv.Group, Version: runtime.APIVersionInternal, Kind: kind}, obj)
	}
}

// storedElsewhere maps the kinds (and lists) that share another kind's storage to that kind's type.
func storedElsewhere(kinds []resource.Resource) (map[schema.GroupVersionKind]runtime.Object, error) {
	out := map[schema.GroupVersionKind]runtime.Object{}
	for _, k := range kinds {
		if k.SharesStorageWith == nil {
			continue
		}
		hub, err := find(kinds, *k.SharesStorageWith)
		if err != nil {
			return nil, err
		}
		out[k.GVR.GroupVersion().WithKind(k.Kind)] = hub.New()
		out[k.GVR.GroupVersion().WithKind(k.Kind+"List")] = hub.NewList()
	}
	return out, nil
}

func find(kinds []resource.Resource, gvr schema.GroupVersionResource) (resource.Resource, error) {
	i := slices.IndexFunc(kinds, func(k resource.Resource) bool { return k.GVR == gvr })
	if i < 0 {
		return resource.Resource{}, fmt.Errorf("no declaration of %s", gvr)
	}
	return kinds[i], nil
}

// describe registers k's defaults, selectable fields and translations.
func (t *types) describe(k resource.Resource, kinds []resource.Resource) error {
	if k.Default != nil {
		t.scheme.AddTypeDefaultingFunc(k.New(), func(obj any) { k.Default(obj.(resource.Object)) })
	}
	main := k
	if k.SharesStorageWith != nil {
		hub, err := find(kinds, *k.SharesStorageWith)
		if err != nil {
			return err
		}
		main = hub
		if err := t.translate(k, hub); err != nil {
			return err
		}
	}
	names := map[string]bool{"metadata.name": true, "metadata.namespace": !main.ClusterScoped}
	if main.Fields != nil {
		for name := range main.Fields(main.New()) {
			names[name] = true
		}
	}
	return t.scheme.AddFieldLabelConversionFunc(k.GVR.GroupVersion().WithKind(k.Kind), func(label, value string) (string, string, error) {
		if !names[label] {
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}
		return label, value, nil
	})
}

// translate registers the conversions between k and the kind it is stored as, for objects and lists.
func (t *types) translate(k, hub resource.Resource) error {
	toHub := func(in runtime.Object) (runtime.Object, error) { return k.ToStored(in.(resource.Object)) }
	fromHub := func(in runtime.Object) (runtime.Object, error) { return k.FromStored(in.(resource.Object)) }
	for _, c := range []struct {
		from, to runtime.Object
		convert  func(runtime.Object) (runtime.Object, error)
		list     bool
	}{
		{k.New(), hub.New(), toHub, false},
		{hub.New(), k.New(), fromHub, false},
		{k.NewList(), hub.NewList(), toHub, true},
		{hub.NewList(), k.NewList(), fromHub, true},
	} {
		convert, list := c.convert, c.list
		err := t.scheme.AddConversionFunc(c.from, c.to, func(in, out any, _ conversion.Scope) error {
			if list {
				return convertList(in.(runtime.Object), out.(runtime.Object), convert)
			}
			converted, err := convert(in.(runtime.Object))
			if err != nil {
				return err
			}
			converted.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
			reflect.ValueOf(out).Elem().Set(reflect.ValueOf(converted).Elem())
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func convertList(in, out runtime.Object, convert func(runtime.Object) (runtime.Object, error)) error {
	from, err := meta.ListAccessor(in)
	if err != nil {
		return err
	}
	to, err := meta.ListAccessor(out)
	if err != nil {
		return err
	}
	to.SetResourceVersion(from.GetResourceVersion())
	to.SetContinue(from.GetContinue())
	to.SetRemainingItemCount(from.GetRemainingItemCount())
	items := make([]runtime.Object, 0, meta.LenList(in))
	err = meta.EachListItem(in, func(item runtime.Object) error {
		converted, err := convert(item)
		if err != nil {
			return err
		}
		converted.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		items = append(items, converted)
		return nil
	})
	if err != nil {
		return err
	}
	return meta.SetList(out, items)
}

// addQueryConversions teaches scheme to read the options of connect requests (exec, log, ...) from a URL's query.
func addQueryConversions(scheme *runtime.Scheme) error {
	for _, obj := range []runtime.Object{
		&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodAttachOptions{}, &corev1.PodPortForwardOptions{},
		&corev1.PodProxyOptions{}, &corev1.NodeProxyOptions{}, &corev1.ServiceProxyOptions{},
	} {
		err := scheme.AddConversionFunc((*url.Values)(nil), obj, func(in, out any, _ conversion.Scope) error {
			return decodeQuery(*in.(*url.Values), out)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
