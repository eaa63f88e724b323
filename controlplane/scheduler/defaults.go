// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// owners knows what services and controllers select: default topology spread constraints count those pods.
type owners struct {
	services    map[string]map[string]labels.Set      // selectors by namespace and name
	controllers map[controllerKey]labels.Requirements // selectors
}

type controllerKey struct{ kind, namespace, name string }

func newOwners() *owners {
	return &owners{services: map[string]map[string]labels.Set{}, controllers: map[controllerKey]labels.Requirements{}}
}

func (o *owners) setService(svc *v1.Service) {
	if len(svc.Spec.Selector) == 0 {
		o.deleteService(svc)
		return
	}
	byName := o.services[svc.Namespace]
	if byName == nil {
		byName = map[string]labels.Set{}
		o.services[svc.Namespace] = byName
	}
	byName[svc.Name] = svc.Spec.Selector
}

func (o *owners) deleteService(svc *v1.Service) {
	delete(o.services[svc.Namespace], svc.Name)
	if len(o.services[svc.Namespace]) == 0 {
		delete(o.services, svc.Namespace)
	}
}

func (o *owners) setController(kind string, meta *metav1.ObjectMeta, selector *metav1.LabelSelector) {
	if s, err := metav1.LabelSelectorAsSelector(selector); err == nil {
		requirements, _ := s.Requirements()
		o.controllers[controllerKey{kind, meta.Namespace, meta.Name}] = requirements
	}
}

func (o *owners) deleteController(kind string, meta *metav1.ObjectMeta) {
	delete(o.controllers, controllerKey{kind, meta.Namespace, meta.Name})
}

// selector joins what the services of pod and its controller select. nil means that it has neither.
func (o *owners) selector(pod *v1.Pod) labels.Selector {
	set := labels.Set{}
	for _, s := range o.services[pod.Namespace] {
		if subset(s, pod.Labels) {
			maps.Copy(set, s)
		}
	}
	var requirements labels.Requirements
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		requirements = o.controllers[controllerKey{ref.Kind, pod.Namespace, ref.Name}]
	}
	if len(set) == 0 && len(requirements) == 0 {
		return nil
	}
	return labels.SelectorFromSet(set).Add(requirements...)
}

func subset(of, labels map[string]string) bool {
	for k, v := range of {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
