// SPDX-License-Identifier: Apache-2.0

package dra

import (
	v1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/fields"
)

func sliceFields(s *v1.ResourceSlice) fields.Set {
	node := ""
	if s.Spec.NodeName != nil {
		node = *s.Spec.NodeName
	}
	return fields.Set{"spec.nodeName": node, "spec.driver": s.Spec.Driver}
}
