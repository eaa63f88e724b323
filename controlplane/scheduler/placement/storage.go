// SPDX-License-Identifier: Apache-2.0

package placement

import "github.com/fairlead/fairlead/controlplane/scheduler/cluster"

type storageView struct{}

func (v *verdicts) storageChanged() bool { return false }

func (e *Evaluator) firstStorageReason(*Needs, *cluster.Node, []*cluster.Pod) Reason { return fits }
