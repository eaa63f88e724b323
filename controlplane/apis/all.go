// SPDX-License-Identifier: Apache-2.0

// Package apis is the list of every built-in kind that Fairlead serves at a stable version. One folder per API group holds the declarations:
// names, defaults, rules and table columns; the form of a declaration is package resource, and controlplane/apiserver serves them.
package apis

import (
	"slices"

	"github.com/fairlead/fairlead/controlplane/apis/admissionregistration"
	"github.com/fairlead/fairlead/controlplane/apis/apps"
	"github.com/fairlead/fairlead/controlplane/apis/autoscaling"
	"github.com/fairlead/fairlead/controlplane/apis/batch"
	"github.com/fairlead/fairlead/controlplane/apis/certificates"
	"github.com/fairlead/fairlead/controlplane/apis/coordination"
	"github.com/fairlead/fairlead/controlplane/apis/core"
	"github.com/fairlead/fairlead/controlplane/apis/discovery"
	"github.com/fairlead/fairlead/controlplane/apis/dra"
	"github.com/fairlead/fairlead/controlplane/apis/events"
	"github.com/fairlead/fairlead/controlplane/apis/flowcontrol"
	"github.com/fairlead/fairlead/controlplane/apis/networking"
	"github.com/fairlead/fairlead/controlplane/apis/node"
	"github.com/fairlead/fairlead/controlplane/apis/policy"
	"github.com/fairlead/fairlead/controlplane/apis/rbac"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
	"github.com/fairlead/fairlead/controlplane/apis/scheduling"
	"github.com/fairlead/fairlead/controlplane/apis/storage"
	"github.com/fairlead/fairlead/controlplane/apis/storagemigration"
)

// All returns the declarations of all groups, the core group first. Kinds that other kinds share storage with come before those.
func All() []resource.Resource {
	return slices.Concat(
		core.Resources(),
		apps.Resources(),
		batch.Resources(),
		autoscaling.Resources(),
		policy.Resources(),
		networking.Resources(),
		discovery.Resources(),
		coordination.Resources(),
		events.Resources(),
		rbac.Resources(),
		certificates.Resources(),
		storage.Resources(),
		scheduling.Resources(),
		node.Resources(),
		admissionregistration.Resources(),
		flowcontrol.Resources(),
		dra.Resources(),
		storagemigration.Resources(),
	)
}
