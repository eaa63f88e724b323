// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/volume"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// VolumeDecision is what will happen to one claim that waited for its pod: it is bound to Volume, or provisioned for the node if Volume is nil.
type VolumeDecision struct {
	Key    string // namespace/name
	Claim  *v1.PersistentVolumeClaim
	Volume *v1.PersistentVolume
}

// filterBinding refuses a node that a bound volume is out of reach of, or where a waiting claim can neither be bound nor provisioned.
func (e *Evaluator) filterBinding(view *storageView, n *cluster.Node) Reason {
	for _, pv := range view.bound {
		if pv == nil {
			return e.reasons.intern(VolumeBinding, true, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
		}
		if volume.CheckNodeAffinity(pv, n.Object.Labels) != nil {
			return e.reasons.intern(VolumeBinding, true, "node(s) didn't match PersistentVolume's node affinity")
		}
	}
	if len(view.waiting) == 0 {
		return fits
	}
	_, reason := e.decideVolumes(view, n)
	return reason
}

// DecideVolumes says what will happen to the waiting claims of a pod with these needs on n.
func (e *Evaluator) DecideVolumes(c *Needs, n *cluster.Node) []VolumeDecision {
	if c.verdicts == nil || len(c.verdicts.storage.waiting) == 0 {
		return nil
	}
	decisions, _ := e.decideVolumes(&c.verdicts.storage, n)
	return decisions
}

func (e *Evaluator) decideVolumes(view *storageView, n *cluster.Node) ([]VolumeDecision, Reason) {
	var decisions []VolumeDecision
	taken := map[string]*v1.PersistentVolume{}
	// Small claims choose first, so that they do not take the volumes that only they leave over.
	waiting := slices.Clone(view.waiting)
	slices.SortStableFunc(waiting, func(a, b waitingClaim) int {
		x, y := requested(a.claim), requested(b.claim)
		return x.Cmp(y)
	})
	for i := range waiting {
		w := &waiting[i]
		if w.selected != "" && w.selected != n.Name {
			return nil, e.nothingToBind()
		}
		if w.selected == "" {
			candidates := w.anywhere
			if local := w.byHost[n.Object.Labels[v1.LabelHostname]]; len(local) > 0 {
				candidates = append(slices.Clone(candidates), local...)
			}
			pv, err := volume.FindMatchingVolume(w.claim, candidates, n.Object, taken, true, true)
			if err == nil && pv != nil {
				taken[pv.Name] = pv
				decisions = append(decisions, VolumeDecision{w.key, w.claim, pv})
				continue
			}
		}
		switch provisions(e.State.Storage, w, n.Object) {
		case fitsTopology:
			decisions = append(decisions, VolumeDecision{w.key, w.claim, nil})
		case noCapacity:
			return nil, e.reasons.intern(VolumeBinding, true, "node(s) did not have enough free storage")
		default:
			return nil, e.nothingToBind()
		}
	}
	return decisions, fits
}

func (e *Evaluator) nothingToBind() Reason {
	return e.reasons.intern(VolumeBinding, true, "node(s) didn't find available persistent volumes to bind")
}

type provisioning uint8

const (
	noProvisioner provisioning = iota
	noCapacity
	fitsTopology
)

// provisions reports whether a waiting claim can be provisioned for the node.
func provisions(storage *cluster.Storage, w *waitingClaim, node *v1.Node) provisioning {
	if w.class.Provisioner == "" || w.class.Provisioner == "kubernetes.io/no-provisioner" || !allowed(w.class.AllowedTopologies, node.Labels) {
		return noProvisioner
	}
	if !storage.ChecksCapacity(w.class.Provisioner) {
		return fitsTopology
	}
	size := requested(w.claim)
	result := noCapacity
	storage.Capacities(w.class.Name, func(c *storagev1.CSIStorageCapacity) bool {
		most := c.MaximumVolumeSize
		if most == nil {
			most = c.Capacity
		}
		if most == nil || most.Cmp(size) < 0 || c.NodeTopology == nil {
			return true
		}
		selector, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
		if err != nil || !selector.Matches(labels.Set(node.Labels)) {
			return true
		}
		result = fitsTopology
		return false
	})
	return result
}

func allowed(terms []v1.TopologySelectorTerm, node map[string]string) bool {
	for _, term := range terms {
		ok := len(term.MatchLabelExpressions) > 0
		for _, e := range term.MatchLabelExpressions {
			value, has := node[e.Key]
			ok = ok && has && slices.Contains(e.Values, value)
		}
		if ok {
			return true
		}
	}
	return len(terms) == 0
}

func requested(claim *v1.PersistentVolumeClaim) resource.Quantity {
	return claim.Spec.Resources.Requests[v1.ResourceStorage]
}
