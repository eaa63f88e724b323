// SPDX-License-Identifier: Apache-2.0

// Package limitranger is admission by LimitRange objects: it fills in the namespace's default requests and limits, and refuses pods,
// containers and volume claims outside of its bounds.
package limitranger

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// PluginName is what the plugin is called in flags and configuration.
const PluginName = "LimitRanger"

// annotation tells people which values came from here.
const annotation = "kubernetes.io/limit-ranger"

// Register makes the plugin known.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) { return New(), nil })
}

// Plugin is the admission plugin.
type Plugin struct {
	*admission.Handler
	client kubernetes.Interface
	ranges corelisters.LimitRangeLister
	recent *recentLookups
}

var (
	_ admission.MutationInterface                  = (*Plugin)(nil)
	_ admission.ValidationInterface                = (*Plugin)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*Plugin)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*Plugin)(nil)
)

// New returns the plugin, to be initialised by its Set methods.
func New() *Plugin {
	return &Plugin{Handler: admission.NewHandler(admission.Create, admission.Update), recent: newRecentLookups()}
}

func (p *Plugin) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }
func (p *Plugin) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	informer := f.Core().V1().LimitRanges()
	p.ranges = informer.Lister()
	p.SetReadyFunc(informer.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *Plugin) ValidateInitialization() error {
	if p.client == nil || p.ranges == nil {
		return fmt.Errorf("%s needs a client and informers", PluginName)
	}
	return nil
}

// Admit fills in defaults. Running pods are only resized by what their author asks for, so updates are left as they are.
func (p *Plugin) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok || !concerns(a) || a.GetOperation() != admission.Create {
		return nil
	}
	ranges, err := p.limits(ctx, a)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		fillDefaults(r, pod)
	}
	return nil
}

// Validate compares with every bound of the namespace and names all that are broken.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !concerns(a) {
		return nil
	}
	if o, ok := a.GetObject().(metav1.Object); ok && a.GetOperation() == admission.Update && o.GetDeletionTimestamp() != nil {
		return nil
	}
	ranges, err := p.limits(ctx, a)
	if err != nil {
		return err
	}
	var broken []error
	for _, r := range ranges {
		switch o := a.GetObject().(type) {
		case *corev1.Pod:
			broken = append(broken, checkPod(r, o)...)
		case *corev1.PersistentVolumeClaim:
			broken = append(broken, checkClaim(r, o)...)
		}
	}
	if len(broken) > 0 {
		return admission.NewForbidden(a, errors.NewAggregate(broken))
	}
	return nil
}

// concerns selects new pods, resized pods, and claims.
func concerns(a admission.Attributes) bool {
	switch a.GetResource().GroupResource() {
	case corev1.Resource("pods"):
		return a.GetOperation() == admission.Create && a.GetSubresource() == "" || a.GetOperation() == admission.Update && a.GetSubresource() == "resize"
	case corev1.Resource("persistentvolumeclaims"):
		return a.GetSubresource() == ""
	}
	return false
}

// limits returns the LimitRanges of the request's namespace. One made a moment ago counts: when the cache has none, the API is asked.
func (p *Plugin) limits(ctx context.Context, a admission.Attributes) ([]*corev1.LimitRange, error) {
	if !p.WaitForReady() {
		return nil, admission.NewForbidden(a, fmt.Errorf("limit ranges are not read yet, try again"))
	}
	ranges, err := p.ranges.LimitRanges(a.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil, admission.NewForbidden(a, err)
	}
	if len(ranges) > 0 {
		return ranges, nil
	}
	return p.recent.get(a.GetNamespace(), func() ([]*corev1.LimitRange, error) {
		list, err := p.client.CoreV1().LimitRanges(a.GetNamespace()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, admission.NewForbidden(a, err)
		}
		out := make([]*corev1.LimitRange, len(list.Items))
		for i := range list.Items {
			out[i] = &list.Items[i]
		}
		return out, nil
	})
}

// fillDefaults gives containers the default requests and limits that they do not name themselves.
func fillDefaults(r *corev1.LimitRange, pod *corev1.Pod) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range r.Spec.Limits {
		if item.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, item.DefaultRequest)
			maps.Copy(limits, item.Default)
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return
	}
	var notes []string
	fill := func(kind string, c *corev1.Container) {
		for _, part := range []struct {
			what     string
			to       *corev1.ResourceList
			defaults corev1.ResourceList
		}{{"request", &c.Resources.Requests, requests}, {"limit", &c.Resources.Limits, limits}} {
			var set []string
			for _, name := range slices.Sorted(maps.Keys(part.defaults)) {
				if _, ok := (*part.to)[name]; ok {
					continue
				}
				if *part.to == nil {
					*part.to = corev1.ResourceList{}
				}
				(*part.to)[name] = part.defaults[name].DeepCopy()
				set = append(set, string(name))
			}
			if len(set) > 0 {
				notes = append(notes, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), part.what, kind, c.Name))
			}
		}
	}
	for i := range pod.Spec.Containers {
		fill("container", &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		fill("init container", &pod.Spec.InitContainers[i])
	}
	if len(notes) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[annotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	}
}

func checkClaim(r *corev1.LimitRange, claim *corev1.PersistentVolumeClaim) (broken []error) {
	for _, item := range r.Spec.Limits {
		if item.Type == corev1.LimitTypePersistentVolumeClaim {
			broken = append(broken, checkBounds(item, claim.Spec.Resources.Requests, claim.Spec.Resources.Limits)...)
		}
	}
	return broken
}

func checkPod(r *corev1.LimitRange, pod *corev1.Pod) (broken []error) {
	for _, item := range r.Spec.Limits {
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, c := range pod.Spec.Containers {
				broken = append(broken, checkBounds(item, c.Resources.Requests, c.Resources.Limits)...)
			}
			for _, c := range pod.Spec.InitContainers {
				broken = append(broken, checkBounds(item, c.Resources.Requests, c.Resources.Limits)...)
			}
		case corev1.LimitTypePod:
			options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
			broken = append(broken, checkBounds(item, resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))...)
		}
	}
	return broken
}

// checkBounds compares requests and limits with one item of a LimitRange.
func checkBounds(item corev1.LimitRangeItem, requests, limits corev1.ResourceList) (broken []error) {
	fail := func(format string, args ...any) { broken = append(broken, fmt.Errorf(format, args...)) }
	for _, name := range slices.Sorted(maps.Keys(item.Min)) {
		min := item.Min[name]
		request, hasRequest := requests[name]
		limit, hasLimit := limits[name]
		switch {
		case !hasRequest:
			fail("minimum %s usage per %s is %s.  No request is specified", name, item.Type, min.String())
		case request.Cmp(min) < 0:
			fail("minimum %s usage per %s is %s, but request is %s", name, item.Type, min.String(), request.String())
		}
		if hasLimit && limit.Cmp(min) < 0 {
			fail("minimum %s usage per %s is %s, but limit is %s", name, item.Type, min.String(), limit.String())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(item.Max)) {
		max := item.Max[name]
		request, hasRequest := requests[name]
		limit, hasLimit := limits[name]
		if item.Type == corev1.LimitTypePersistentVolumeClaim { // claims have requests only
			limit, hasLimit = request, hasRequest
		}
		switch {
		case !hasLimit:
			fail("maximum %s usage per %s is %s.  No limit is specified", name, item.Type, max.String())
		case limit.Cmp(max) > 0:
			fail("maximum %s usage per %s is %s, but limit is %s", name, item.Type, max.String(), limit.String())
		}
		if hasRequest && request.Cmp(max) > 0 && item.Type != corev1.LimitTypePersistentVolumeClaim {
			fail("maximum %s usage per %s is %s, but request is %s", name, item.Type, max.String(), request.String())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(item.MaxLimitRequestRatio)) {
		ratio := item.MaxLimitRequestRatio[name]
		request, limit := requests[name], limits[name]
		switch {
		case request.IsZero():
			fail("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, item.Type, ratio.String())
		case limit.IsZero():
			fail("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, item.Type, ratio.String())
		case exceedsRatio(limit, request, ratio):
			fail("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, item.Type, ratio.String(),
				limit.AsApproximateFloat64()/request.AsApproximateFloat64())
		}
	}
	return broken
}

// exceedsRatio reports limit/request > ratio, within the rounding of quantities to thousandths.
func exceedsRatio(limit, request, ratio resource.Quantity) bool {
	return limit.AsApproximateFloat64()/request.AsApproximateFloat64() > ratio.AsApproximateFloat64()+1e-9
}
