// SPDX-License-Identifier: Apache-2.0

// Package networking declares the kinds of the networking.k8s.io group (v1).
package networking

import (
	v1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		ingresses().Resource(),
		ingressClasses().Resource(),
		networkPolicies().Resource(),
		ipAddresses().Resource(),
		serviceCIDRs().Resource(),
	}
}

func ingresses() resource.Kind[*v1.Ingress] {
	return resource.Kind[*v1.Ingress]{
		GVR:            group.WithResource("ingresses"),
		Kind:           "Ingress",
		ShortNames:     []string{"ing"},
		New:            func() *v1.Ingress { return &v1.Ingress{} },
		NewList:        func() runtime.Object { return &v1.IngressList{} },
		HasStatus:      true,
		Columns:        ingressColumns(),
		Validate:       validateIngress,
		ValidateStatus: validateIngressStatus,
		Warnings:       ingressWarnings,
	}
}

func ingressClasses() resource.Kind[*v1.IngressClass] {
	return resource.Kind[*v1.IngressClass]{
		GVR:            group.WithResource("ingressclasses"),
		Kind:           "IngressClass",
		ClusterScoped:  true,
		New:            func() *v1.IngressClass { return &v1.IngressClass{} },
		NewList:        func() runtime.Object { return &v1.IngressClassList{} },
		Default:        defaultIngressClass,
		Columns:        ingressClassColumns(),
		Validate:       validateIngressClass,
		ValidateUpdate: validateIngressClassUpdate,
	}
}

func networkPolicies() resource.Kind[*v1.NetworkPolicy] {
	return resource.Kind[*v1.NetworkPolicy]{
		GVR:        group.WithResource("networkpolicies"),
		Kind:       "NetworkPolicy",
		ShortNames: []string{"netpol"},
		New:        func() *v1.NetworkPolicy { return &v1.NetworkPolicy{} },
		NewList:    func() runtime.Object { return &v1.NetworkPolicyList{} },
		Default:    defaultNetworkPolicy,
		Columns:    networkPolicyColumns(),
		Validate:   validateNetworkPolicy,
	}
}

func ipAddresses() resource.Kind[*v1.IPAddress] {
	return resource.Kind[*v1.IPAddress]{
		GVR:            group.WithResource("ipaddresses"),
		Kind:           "IPAddress",
		ShortNames:     []string{"ip"},
		ClusterScoped:  true,
		New:            func() *v1.IPAddress { return &v1.IPAddress{} },
		NewList:        func() runtime.Object { return &v1.IPAddressList{} },
		NoGeneration:   true,
		Columns:        ipAddressColumns(),
		Validate:       validateIPAddress,
		ValidateUpdate: validateIPAddressUpdate,
		ValidateName:   addressName,
	}
}

func serviceCIDRs() resource.Kind[*v1.ServiceCIDR] {
	return resource.Kind[*v1.ServiceCIDR]{
		GVR:            group.WithResource("servicecidrs"),
		Kind:           "ServiceCIDR",
		ClusterScoped:  true,
		New:            func() *v1.ServiceCIDR { return &v1.ServiceCIDR{} },
		NewList:        func() runtime.Object { return &v1.ServiceCIDRList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Columns:        serviceCIDRColumns(),
		Validate:       validateServiceCIDR,
		ValidateUpdate: validateServiceCIDRUpdate,
	}
}
