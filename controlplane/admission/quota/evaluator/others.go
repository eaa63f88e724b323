// SPDX-License-Identifier: Apache-2.0

package evaluator

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	volumehelper "k8s.io/component-helpers/storage/volume"
)

const (
	// "gold.storageclass.storage.k8s.io/requests.storage" limits what is asked of the class gold.
	classDomainSuffix = ".storageclass.storage.k8s.io"
	// "gpu.deviceclass.resource.k8s.io/devices" limits the devices of the class gpu.
	deviceClassSuffix = ".deviceclass.resource.k8s.io"
)

var deviceClaims = resourcev1.SchemeGroupVersion.WithResource("resourceclaims")

func serviceRules() rules {
	return rules{
		handles: onWrite(true),
		matching: func(n corev1.ResourceName) bool {
			return n == corev1.ResourceServices || n == corev1.ResourceServicesNodePorts || n == corev1.ResourceServicesLoadBalancers
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			s, err := as[*corev1.Service](obj)
			if err != nil {
				return nil, err
			}
			out := corev1.ResourceList{corev1.ResourceServices: one(), corev1.ResourceServicesNodePorts: number(0), corev1.ResourceServicesLoadBalancers: number(0)}
			switch s.Spec.Type {
			case corev1.ServiceTypeNodePort:
				out[corev1.ResourceServicesNodePorts] = number(int64(len(s.Spec.Ports)))
			case corev1.ServiceTypeLoadBalancer:
				out[corev1.ResourceServicesLoadBalancers] = one()
				ports := len(s.Spec.Ports)
				if a := s.Spec.AllocateLoadBalancerNodePorts; a != nil && !*a {
					ports = 0
					for _, p := range s.Spec.Ports {
						if p.NodePort != 0 {
							ports++
						}
					}
				}
				out[corev1.ResourceServicesNodePorts] = number(int64(ports))
			}
			return out, nil
		},
	}
}

func claimRules() rules {
	return rules{
		handles: onWrite(true),
		matching: func(n corev1.ResourceName) bool {
			domain, what, _ := strings.Cut(string(n), "/")
			return n == corev1.ResourcePersistentVolumeClaims || n == corev1.ResourceRequestsStorage ||
				strings.HasSuffix(domain, classDomainSuffix) && (what == string(corev1.ResourceRequestsStorage) || what == string(corev1.ResourcePersistentVolumeClaims))
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			c, err := as[*corev1.PersistentVolumeClaim](obj)
			if err != nil {
				return nil, err
			}
			out := corev1.ResourceList{corev1.ResourcePersistentVolumeClaims: one()}
			class := volumehelper.GetPersistentVolumeClaimClass(c)
			if class != "" {
				out[corev1.ResourceName(class+classDomainSuffix+"/"+string(corev1.ResourcePersistentVolumeClaims))] = one()
			}
			storage, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]
			if !ok {
				return out, nil
			}
			// While an expansion is taken back, what is allocated already still counts.
			if allocated, ok := c.Status.AllocatedResources[corev1.ResourceStorage]; ok && allocated.Cmp(storage) > 0 {
				storage = allocated
			}
			// Quotas count whole bytes.
			storage = *resource.NewQuantity(storage.Value(), storage.Format)
			out[corev1.ResourceRequestsStorage] = storage
			if class != "" {
				out[corev1.ResourceName(class+classDomainSuffix+"/"+string(corev1.ResourceRequestsStorage))] = storage
			}
			return out, nil
		},
		scope: func(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
			c, err := as[*corev1.PersistentVolumeClaim](obj)
			if err != nil || s.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
				return false, err
			}
			// A claim on its way from one class to another counts for each of them.
			names := map[string]bool{}
			for _, p := range []*string{c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName} {
				if p != nil && *p != "" {
					names[*p] = true
				}
			}
			if m := c.Status.ModifyVolumeStatus; m != nil && m.TargetVolumeAttributesClassName != "" {
				names[m.TargetVolumeAttributesClassName] = true
			}
			if len(names) == 0 {
				names[""] = true
			}
			for name := range names {
				if ok, err := selects(s, name); ok || err != nil {
					return ok, err
				}
			}
			return false, nil
		},
	}
}

func deviceClaimRules() rules {
	return rules{
		handles: onWrite(true),
		matching: func(n corev1.ResourceName) bool {
			domain, what, _ := strings.Cut(string(n), "/")
			return strings.HasSuffix(domain, deviceClassSuffix) && what == "devices"
		},
		usage: func(obj runtime.Object) (corev1.ResourceList, error) {
			c, err := as[*resourcev1.ResourceClaim](obj)
			if err != nil {
				return nil, err
			}
			total := map[string]int64{}
			for _, r := range c.Spec.Devices.Requests {
				if r.Exactly != nil {
					total[r.Exactly.DeviceClassName] += devices(r.Exactly.AllocationMode, r.Exactly.Count)
				}
				// One of the alternatives is chosen later: each class counts with its greatest.
				worst := map[string]int64{}
				for _, s := range r.FirstAvailable {
					worst[s.DeviceClassName] = max(worst[s.DeviceClassName], devices(s.AllocationMode, s.Count))
				}
				for class, n := range worst {
					total[class] += n
				}
			}
			out := corev1.ResourceList{}
			for class, n := range total {
				out[corev1.ResourceName(class+deviceClassSuffix+"/devices")] = number(n)
			}
			return out, nil
		},
	}
}

// devices is how many devices a request can get; "all" counts with the most that one claim may hold.
func devices(mode resourcev1.DeviceAllocationMode, count int64) int64 {
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		return resourcev1.AllocationResultsMaxSize
	case resourcev1.DeviceAllocationModeExactCount, "":
		return max(count, 1)
	}
	return 1
}
