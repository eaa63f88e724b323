// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

func validateEndpoints(_ context.Context, e *v1.Endpoints) field.ErrorList {
	r := &rule.Report{}
	for i := range e.Subsets {
		s, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		r.Required(at, len(s.Addresses)+len(s.NotReadyAddresses) > 0, "must specify `addresses` or `notReadyAddresses`")
		endpointAddresses(r, at.Child("addresses"), s.Addresses)
		endpointAddresses(r, at.Child("notReadyAddresses"), s.NotReadyAddresses)
		names := map[string]bool{}
		for j, p := range s.Ports {
			at := at.Child("ports").Index(j)
			if r.Required(at.Child("name"), p.Name != "" || len(s.Ports) == 1, "") {
				r.Optional(at.Child("name"), p.Name, validation.IsDNS1123Label)
			}
			if names[p.Name] {
				r.Add(field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
			r.Port(at.Child("port"), p.Port)
			rule.OneOf(r, at.Child("protocol"), p.Protocol, v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP)
			if p.AppProtocol != nil {
				r.Invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol)...)
			}
		}
	}
	return r.Errors()
}

func endpointAddresses(r *rule.Report, path *field.Path, list []v1.EndpointAddress) {
	for i, a := range list {
		at := path.Index(i)
		r.Add(validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, true, nil)...)
		NotSpecial(r, at.Child("ip"), a.IP)
		r.Optional(at.Child("hostname"), a.Hostname, validation.IsDNS1123Label)
		if a.NodeName != nil {
			r.Invalid(at.Child("nodeName"), *a.NodeName, subdomain(*a.NodeName)...)
		}
	}
}
