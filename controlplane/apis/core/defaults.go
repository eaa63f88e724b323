// SPDX-License-Identifier: Apache-2.0

package core

import (
	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
)

func defaultPodTemplate(t *v1.PodTemplate) { podspec.Default(&t.Template.Spec) }

func defaultReplicationController(rc *v1.ReplicationController) {
	if rc.Spec.Replicas == nil {
		rc.Spec.Replicas = new(int32(1))
	}
	t := rc.Spec.Template
	if t == nil {
		return
	}
	podspec.Default(&t.Spec)
	if len(t.Labels) > 0 {
		if len(rc.Spec.Selector) == 0 {
			rc.Spec.Selector = clone(t.Labels)
		}
		if len(rc.Labels) == 0 {
			rc.Labels = clone(t.Labels)
		}
	}
}

func defaultEndpoints(e *v1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
				p.Protocol = v1.ProtocolTCP
			}
		}
	}
}

func defaultNode(n *v1.Node) {
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	podspec.RoundUp(n.Status.Capacity)
	podspec.RoundUp(n.Status.Allocatable)
	// podCIDR is the first of podCIDRs. A writer that knows only podCIDR wins over a list that says otherwise.
	switch s := &n.Spec; {
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR}
	}
}

func defaultNamespace(n *v1.Namespace) {
	if n.Status.Phase == "" {
		n.Status.Phase = v1.NamespaceActive
	}
	if n.Name != "" {
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		n.Labels[v1.LabelMetadataName] = n.Name
	}
}

// defaultSecret also moves stringData, which is only for writing, into data.
func defaultSecret(s *v1.Secret) {
	if s.Type == "" {
		s.Type = v1.SecretTypeOpaque
	}
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = map[string][]byte{}
	}
	for k, text := range s.StringData {
		s.Data[k] = []byte(text)
	}
	s.StringData = nil
}

func defaultPersistentVolume(pv *v1.PersistentVolume) {
	if pv.Status.Phase == "" {
		pv.Status.Phase = v1.VolumePending
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == "" {
		pv.Spec.PersistentVolumeReclaimPolicy = v1.PersistentVolumeReclaimRetain
	}
	if pv.Spec.VolumeMode == nil {
		pv.Spec.VolumeMode = new(v1.PersistentVolumeFilesystem)
	}
	podspec.RoundUp(pv.Spec.Capacity)
	podspec.DefaultHostPath(pv.Spec.HostPath)
	podspec.DefaultAzureDisk(pv.Spec.AzureDisk)
	or := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	if s := pv.Spec.ISCSI; s != nil {
		or(&s.ISCSIInterface, "default")
	}
	if s := pv.Spec.RBD; s != nil {
		or(&s.RBDPool, "rbd")
		or(&s.RadosUser, "admin")
		or(&s.Keyring, "/etc/ceph/keyring")
	}
	if s := pv.Spec.ScaleIO; s != nil {
		or(&s.StorageMode, "ThinProvisioned")
		or(&s.FSType, "xfs")
	}
}

func defaultPersistentVolumeClaim(c *v1.PersistentVolumeClaim) {
	if c.Status.Phase == "" {
		c.Status.Phase = v1.ClaimPending
	}
	podspec.DefaultClaim(&c.Spec)
	podspec.RoundUp(c.Status.Capacity)
	podspec.RoundUp(c.Status.AllocatedResources)
}

func defaultResourceQuota(q *v1.ResourceQuota) {
	podspec.RoundUp(q.Spec.Hard)
	podspec.RoundUp(q.Status.Hard)
	podspec.RoundUp(q.Status.Used)
}

// defaultLimitRange completes container limits: the default limit is the maximum, the default request the default limit or else the minimum.
func defaultLimitRange(l *v1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		if item.Type == v1.LimitTypeContainer {
			if item.Default == nil {
				item.Default = v1.ResourceList{}
			}
			if item.DefaultRequest == nil {
				item.DefaultRequest = v1.ResourceList{}
			}
			complete(item.Default, item.Max)
			complete(item.DefaultRequest, item.Default)
			complete(item.DefaultRequest, item.Min)
		}
		for _, list := range []v1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			podspec.RoundUp(list)
		}
	}
}

func complete(into, from v1.ResourceList) {
	for name, q := range from {
		if _, ok := into[name]; !ok {
			into[name] = q.DeepCopy()
		}
	}
}

func clone(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
