// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	v1 "k8s.io/api/admissionregistration/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func webhookColumns[T resource.Object](count func(T) int) []resource.Column[T] {
	return column.Standard(column.Int("Webhooks", "Number of webhooks.", count))
}

func policyColumns[T resource.Object](name string, count func(T) int, param func(T) *v1.ParamKind) []resource.Column[T] {
	return column.Standard(
		column.Int(name, "Number of rules.", count),
		column.Text("ParamKind", "Kind of the objects that parameterize the policy.", func(p T) string {
			k := param(p)
			if k == nil {
				return column.Unset
			}
			return k.APIVersion + "/" + k.Kind
		}),
	)
}

func bindingColumns[T resource.Object](policy func(T) string, param func(T) *v1.ParamRef) []resource.Column[T] {
	return column.Standard(
		column.Text("PolicyName", "Policy that is put in force.", policy),
		column.Text("ParamRef", "Objects that parameterize it.", func(b T) string {
			switch r := param(b); {
			case r == nil:
			case r.Name != "":
				return column.Or(r.Namespace, "*") + "/" + r.Name
			case r.Selector != nil:
				return r.Selector.String()
			}
			return column.Unset
		}),
	)
}
