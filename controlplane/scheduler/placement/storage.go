// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// storageView is how the claims of some needs resolved when nodes were last asked about them.
type storageView struct {
	version uint64
	claims  []*v1.PersistentVolumeClaim
	bound   []*v1.PersistentVolume // of claims that are bound; nil where the volume does not exist
	waiting []waitingClaim         // claims that wait for their first consumer
	users   int                    // pods that use claims which only one pod may use
	blocked string                 // why the pod can go nowhere
}

// waitingClaim is a claim that is bound or provisioned once its pod has a node.
type waitingClaim struct {
	key      string
	claim    *v1.PersistentVolumeClaim
	class    *storagev1.StorageClass
	selected string // the node it is being provisioned for already
	anywhere []*v1.PersistentVolume
	byHost   map[string][]*v1.PersistentVolume
}

// storageChanged resolves the claims again if anything about them may have changed, and reports whether so.
func (v *verdicts) storageChanged() bool {
	if len(v.needs.claims) == 0 {
		return false
	}
	storage, view := v.e.State.Storage, &v.storage
	users := 0
	same := view.claims != nil && view.version == storage.Version()
	for i, key := range v.needs.claims {
		claim := storage.Claim(key)
		same = same && view.claims[i] == claim
		if claim != nil && exclusive(claim) {
			users += storage.Users(key)
		}
	}
	if same && users == view.users {
		return false
	}
	*view = storageView{version: storage.Version(), users: users}
	for _, key := range v.needs.claims {
		claim := storage.Claim(key)
		view.claims = append(view.claims, claim)
		if err := view.resolve(storage, key, claim); err != "" && view.blocked == "" {
			view.blocked = err
		}
	}
	return true
}

func exclusive(claim *v1.PersistentVolumeClaim) bool {
	for _, mode := range claim.Spec.AccessModes {
		if mode == v1.ReadWriteOncePod {
			return true
		}
	}
	return false
}

// resolve sorts a claim into bound or waiting; the text says why the pod can go nowhere.
func (view *storageView) resolve(storage *cluster.Storage, key string, claim *v1.PersistentVolumeClaim) string {
	switch {
	case claim == nil:
		_, name, _ := cutKey(key)
		return fmt.Sprintf("persistentvolumeclaim %q not found", name)
	case claim.Status.Phase == v1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", claim.Name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", claim.Name)
	case claim.Spec.VolumeName != "" && claim.Annotations[volume.AnnBindCompleted] != "":
		view.bound = append(view.bound, storage.Volume(claim.Spec.VolumeName))
		return ""
	}
	class := storage.Class(volume.GetPersistentVolumeClaimClass(claim))
	if claim.Spec.VolumeName != "" || class == nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
		return "pod has unbound immediate PersistentVolumeClaims"
	}
	w := waitingClaim{key: key, claim: claim, class: class, selected: storage.Selected(key), byHost: map[string][]*v1.PersistentVolume{}}
	storage.VolumesOfClass(class.Name, key, func(pv *v1.PersistentVolume) {
		if host := onlyHost(pv); host != "" {
			w.byHost[host] = append(w.byHost[host], pv)
		} else {
			w.anywhere = append(w.anywhere, pv)
		}
	})
	view.waiting = append(view.waiting, w)
	return ""
}

func cutKey(key string) (namespace, name string, ok bool) {
	for i := range key {
		if key[i] == '/' {
			return key[:i], key[i+1:], true
		}
	}
	return "", key, false
}

// onlyHost returns the one host name that a volume's node affinity allows (local volumes), or "".
func onlyHost(pv *v1.PersistentVolume) string {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil || len(pv.Spec.NodeAffinity.Required.NodeSelectorTerms) != 1 {
		return ""
	}
	for _, e := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions {
		if e.Key == v1.LabelHostname && e.Operator == v1.NodeSelectorOpIn && len(e.Values) == 1 {
			return e.Values[0]
		}
	}
	return ""
}

// firstStorageReason asks the volume plugins, in Kubernetes' order, as if victims were gone.
func (e *Evaluator) firstStorageReason(c *Needs, n *cluster.Node, victims []*cluster.Pod) Reason {
	if len(c.claims) == 0 || c.verdicts == nil {
		return fits
	}
	view, on := &c.verdicts.storage, c.Profile.Filters
	if on.Has(VolumeRestrictions) {
		if r := e.filterExclusive(c, view, n, victims); r != fits {
			return r
		}
	}
	if on.Has(NodeVolumeLimits) {
		if r := e.filterLimits(c, n, victims); r != fits {
			return r
		}
	}
	if on.Has(VolumeBinding) {
		if r := e.filterBinding(view, n); r != fits {
			return r
		}
	}
	if on.Has(VolumeZone) {
		return e.filterZone(view, n)
	}
	return fits
}

func filterStorage(e *Evaluator, c *Needs, n *cluster.Node) Reason {
	return e.firstStorageReason(c, n, nil)
}
