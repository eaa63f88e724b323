// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func ingressColumns() []resource.Column[*v1.Ingress] {
	return column.Standard(
		column.Text("Class", "IngressClass that serves it.", func(i *v1.Ingress) string { return column.Pointed(i.Spec.IngressClassName, column.None) }),
		column.Text("Hosts", "Hosts of its rules.", hosts),
		column.Text("Address", "Addresses of its load balancer.", func(i *v1.Ingress) string {
			var list []string
			for _, in := range i.Status.LoadBalancer.Ingress {
				if a := column.Or(in.IP, in.Hostname); a != "" {
					list = append(list, a)
				}
			}
			slices.Sort(list)
			return strings.Join(slices.Compact(list), ",")
		}),
		column.Text("Ports", "Ports that are open.", func(i *v1.Ingress) string {
			if len(i.Spec.TLS) > 0 {
				return "80, 443"
			}
			return "80"
		}),
	)
}

// hosts names the first three; rules without a host are counted once something is left out.
func hosts(i *v1.Ingress) string {
	var list []string
	more := false
	for _, r := range i.Spec.Rules {
		if len(list) == 3 {
			more = true
			break
		}
		if r.Host != "" {
			list = append(list, r.Host)
		}
	}
	switch {
	case len(list) == 0:
		return "*"
	case more:
		return fmt.Sprintf("%s + %d more...", strings.Join(list, ","), len(i.Spec.Rules)-3)
	}
	return strings.Join(list, ",")
}

func ingressClassColumns() []resource.Column[*v1.IngressClass] {
	return column.Standard(
		column.Text("Controller", "Controller that serves the class.", func(c *v1.IngressClass) string { return c.Spec.Controller }),
		column.Text("Parameters", "Object with further parameters.", func(c *v1.IngressClass) string {
			p := c.Spec.Parameters
			if p == nil {
				return column.None
			}
			kind := p.Kind
			if p.APIGroup != nil {
				kind += "." + *p.APIGroup
			}
			return kind + "/" + p.Name
		}),
	)
}

func networkPolicyColumns() []resource.Column[*v1.NetworkPolicy] {
	return column.Standard(column.Text("Pod-Selector", "Labels of the pods that the policy is for.",
		func(p *v1.NetworkPolicy) string { return metav1.FormatLabelSelector(&p.Spec.PodSelector) }))
}

func ipAddressColumns() []resource.Column[*v1.IPAddress] {
	return column.Standard(column.Text("ParentRef", "Object that has the address.", func(a *v1.IPAddress) string {
		p := a.Spec.ParentRef
		if p == nil {
			return column.None
		}
		ref := strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String())
		if p.Namespace != "" {
			ref += "/" + p.Namespace
		}
		return ref + "/" + p.Name
	}))
}

func serviceCIDRColumns() []resource.Column[*v1.ServiceCIDR] {
	return column.Standard(column.Text("CIDRs", "Ranges that service addresses are taken from.",
		func(c *v1.ServiceCIDR) string { return strings.Join(c.Spec.CIDRs, ",") }))
}
