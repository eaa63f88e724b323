// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"k8s.io/apiserver/pkg/admission"

	plugins "github.com/fairlead/fairlead/controlplane/admission"
	"github.com/fairlead/fairlead/controlplane/apiserver"
)

// admission returns what makes the admission chain.
func (g *guards) admission() func(context.Context, apiserver.Env) (admission.Interface, error) {
	return func(_ context.Context, env apiserver.Env) (admission.Interface, error) {
		return plugins.New(
			plugins.Config{ConfigFile: g.cfg.AdmissionConfig, Enable: g.cfg.EnableAdmission, Disable: g.cfg.DisableAdmission},
			plugins.Env{Generic: env.Generic, Client: env.Client, Dynamic: env.Dynamic, Informers: env.Informers, Services: env.Services})
	}
}
