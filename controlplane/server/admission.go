// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"k8s.io/apiserver/pkg/admission"

	"github.com/fairlead/fairlead/controlplane/apiserver"
)

// admission returns what makes the admission chain; nil means the API server library's own.
func (g *guards) admission() func(context.Context, apiserver.Env) (admission.Interface, error) {
	return nil
}
