// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
	"github.com/fairlead/fairlead/controlplane/apiserver/registry"
)

// ephemeralContainers is pods/ephemeralcontainers: containers are added for debugging and never changed or removed.
func ephemeralContainers(pods *registry.Main) *registry.Status {
	return pods.Part(registry.Part{
		Take: func(_ context.Context, obj, wanted resource.Object) {
			obj.(*corev1.Pod).Spec.EphemeralContainers = wanted.(*corev1.Pod).Spec.EphemeralContainers
		},
		Validate: func(ctx context.Context, obj, old resource.Object) field.ErrorList {
			errs := pods.Validate(ctx, obj)
			return append(errs, validateEphemeral(obj.(*corev1.Pod), old.(*corev1.Pod))...)
		},
	})
}

func validateEphemeral(pod, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec", "ephemeralContainers")
	var errs field.ErrorList
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		errs = append(errs, field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers"))
	}
	present := map[string]*corev1.EphemeralContainer{}
	for i := range pod.Spec.EphemeralContainers {
		present[pod.Spec.EphemeralContainers[i].Name] = &pod.Spec.EphemeralContainers[i]
	}
	for _, c := range old.Spec.EphemeralContainers {
		switch now, ok := present[c.Name]; {
		case !ok:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed", c.Name)))
		case !equality.Semantic.DeepEqual(&c, now):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed", c.Name)))
		}
	}
	return errs
}

// resize is pods/resize: cpu and memory of running containers change, nothing else.
func resize(pods *registry.Main) *registry.Status {
	return pods.Part(registry.Part{
		Take: func(_ context.Context, obj, wanted resource.Object) {
			pod, w := obj.(*corev1.Pod), wanted.(*corev1.Pod)
			takeResources(pod.Spec.Containers, w.Spec.Containers)
			takeResources(pod.Spec.InitContainers, w.Spec.InitContainers)
			if w.Spec.Resources != nil {
				pod.Spec.Resources = w.Spec.Resources
			}
		},
		Validate: func(ctx context.Context, obj, old resource.Object) field.ErrorList {
			errs := pods.Validate(ctx, obj)
			return append(errs, validateResize(obj.(*corev1.Pod), old.(*corev1.Pod))...)
		},
	})
}

func takeResources(containers, wanted []corev1.Container) {
	for i := range containers {
		for _, w := range wanted {
			if w.Name == containers[i].Name {
				containers[i].Resources = w.Resources
				containers[i].ResizePolicy = w.ResizePolicy
			}
		}
	}
}

func validateResize(pod, old *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		errs = append(errs, field.Forbidden(field.NewPath(""), "static pods cannot be resized"))
	}
	if phase := old.Status.Phase; phase == corev1.PodSucceeded || phase == corev1.PodFailed {
		errs = append(errs, field.Forbidden(field.NewPath(""), "pod in phase "+string(phase)+" cannot be resized"))
	}
	for _, set := range []struct {
		name     string
		now, was []corev1.Container
	}{{"containers", pod.Spec.Containers, old.Spec.Containers}, {"initContainers", pod.Spec.InitContainers, old.Spec.InitContainers}} {
		for i := range set.now {
			path := spec.Child(set.name).Index(i).Child("resources")
			errs = append(errs, onlyComputeChanged(path.Child("requests"), set.now[i].Resources.Requests, set.was[i].Resources.Requests)...)
			errs = append(errs, onlyComputeChanged(path.Child("limits"), set.now[i].Resources.Limits, set.was[i].Resources.Limits)...)
		}
	}
	if now, was := qosClass(pod), qosClass(old); now != was {
		errs = append(errs, field.Invalid(spec, string(now), "Pod QOS Class may not change as a result of resizing"))
	}
	return errs
}

// onlyComputeChanged refuses changes of anything but cpu and memory, and their removal.
func onlyComputeChanged(path *field.Path, now, was corev1.ResourceList) field.ErrorList {
	var errs field.ErrorList
	names := map[corev1.ResourceName]bool{}
	for name := range now {
		names[name] = true
	}
	for name := range was {
		names[name] = true
	}
	for name := range names {
		n, has := now[name]
		w, had := was[name]
		compute := name == corev1.ResourceCPU || name == corev1.ResourceMemory
		switch {
		case !compute && (has != had || n.Cmp(w) != 0):
			errs = append(errs, field.Forbidden(path.Key(string(name)), "only cpu and memory resources are mutable"))
		case compute && had && !has:
			errs = append(errs, field.Forbidden(path.Key(string(name)), "resource requests and limits cannot be removed"))
		}
	}
	return errs
}

// qosClass computes the class as the API documents it: Guaranteed when every container limits cpu and memory and asks for as much, BestEffort when
// none asks or limits, else Burstable.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	guaranteed, best := true, true
	for _, set := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range set {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				request, asked := c.Resources.Requests[name]
				limit, limited := c.Resources.Limits[name]
				asked, limited = asked && !request.IsZero(), limited && !limit.IsZero()
				best = best && !asked && !limited
				guaranteed = guaranteed && limited && (!asked || request.Cmp(limit) == 0)
			}
		}
	}
	switch {
	case best:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
