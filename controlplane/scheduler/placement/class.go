// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// Class is what pods with the same needs have in common.
type Class struct {
	Profile   *Profile
	Namespace string
	Labels    labels.Set
	Priority  int32
	Shape     *cluster.Shape
	Sample    *v1.Pod // the first pod of the class; only fields that are in the key may be read from it

	required   nodeaffinity.RequiredNodeAffinity
	added      *nodeaffinity.NodeSelector
	preferred  []*nodeaffinity.PreferredSchedulingTerms
	selective  bool // required or added can refuse a node
	prefersNot []v1.Toleration
	spread     []spreadConstraint
	claims     []string // namespace/name of the claims that volumes name
	defaults   labels.Selector
	unresolved string // a text if the pod's spec cannot be understood

	key  string
	view *View
	used uint64 // evaluator's clock at the last use
}

// Request is one pod that wants a node.
type Request struct {
	Pod   *v1.Pod
	Class *Class
	// Pinned is the one node that the pod's affinity names (daemon pods); "" is any. It is not part of the class.
	Pinned string
}

// Defaults finds the selector for the default topology spread constraints of a pod: what its services and its controller select. nil means none.
type Defaults func(pod *v1.Pod) labels.Selector

// Classify finds or makes the class of pod.
func (e *Evaluator) Classify(pod *v1.Pod, profile *Profile) Request {
	affinity, pinned := unpin(pod.Spec.Affinity)
	var selector labels.Selector
	if len(pod.Spec.TopologySpreadConstraints) == 0 && len(profile.DefaultConstraints) > 0 && e.Defaults != nil {
		selector = e.Defaults(pod)
	}
	key := classKey(pod, profile, affinity, selector)
	c := e.classes[key]
	if c == nil {
		c = e.newClass(pod, profile, affinity, selector)
		c.key = key
		e.classes[key] = c
	}
	e.clock++
	c.used = e.clock
	return Request{Pod: pod, Class: c, Pinned: pinned}
}

func (e *Evaluator) newClass(pod *v1.Pod, profile *Profile, affinity *v1.Affinity, defaults labels.Selector) *Class {
	c := &Class{Profile: profile, Namespace: pod.Namespace, Labels: pod.Labels, Priority: corev1helpers.PodPriority(pod), Sample: pod, defaults: defaults}
	var err error
	if c.Shape, err = e.State.Shape(pod); err != nil {
		c.unresolved = err.Error()
	}
	c.required = nodeaffinity.NewRequiredNodeAffinity(pod.Spec.NodeSelector, affinity)
	c.selective = len(pod.Spec.NodeSelector) > 0
	if affinity != nil && affinity.NodeAffinity != nil {
		c.selective = c.selective || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
		c.prefer(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if added := profile.AddedAffinity; added != nil {
		c.prefer(added.PreferredDuringSchedulingIgnoredDuringExecution)
		if required := added.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			c.selective = true
			if c.added, err = nodeaffinity.NewNodeSelector(required); err != nil {
				c.unresolved = fmt.Sprintf("addedAffinity of profile %s: %v", profile.SchedulerName, err)
			}
		}
	}
	for _, t := range pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == v1.TaintEffectPreferNoSchedule {
			c.prefersNot = append(c.prefersNot, t)
		}
	}
	if c.spread, err = spreadConstraints(pod, profile, defaults); err != nil {
		c.unresolved = err.Error()
	}
	for _, name := range claimNames(pod) {
		c.claims = append(c.claims, pod.Namespace+"/"+name)
	}
	return c
}

func (c *Class) prefer(terms []v1.PreferredSchedulingTerm) {
	if len(terms) == 0 {
		return
	}
	if p, err := nodeaffinity.NewPreferredSchedulingTerms(terms); err == nil {
		c.preferred = append(c.preferred, p)
	}
}

// unpin takes the requirement on one node's name, which the DaemonSet controller adds to every term, out of affinity. What is left is the
// same for all pods of a DaemonSet.
func unpin(affinity *v1.Affinity) (*v1.Affinity, string) {
	if affinity == nil || affinity.NodeAffinity == nil || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return affinity, ""
	}
	terms := affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	pinned := ""
	for i := range terms {
		fields := terms[i].MatchFields
		if len(fields) != 1 || fields[0].Key != metav1.ObjectNameField || fields[0].Operator != v1.NodeSelectorOpIn || len(fields[0].Values) != 1 ||
			pinned != "" && fields[0].Values[0] != pinned {
			return affinity, ""
		}
		pinned = fields[0].Values[0]
	}
	if pinned == "" {
		return affinity, ""
	}
	rest := &v1.Affinity{PodAffinity: affinity.PodAffinity, PodAntiAffinity: affinity.PodAntiAffinity,
		NodeAffinity: &v1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution}}
	open := false // some term asked for nothing but the name
	var left []v1.NodeSelectorTerm
	for i := range terms {
		open = open || len(terms[i].MatchExpressions) == 0
		left = append(left, v1.NodeSelectorTerm{MatchExpressions: terms[i].MatchExpressions})
	}
	if !open {
		rest.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &v1.NodeSelector{NodeSelectorTerms: left}
	}
	return rest, pinned
}

// claimNames lists the claims that pod's volumes name, with the names that ephemeral volumes will get.
func claimNames(pod *v1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		switch vol := &pod.Spec.Volumes[i]; {
		case vol.PersistentVolumeClaim != nil:
			names = append(names, vol.PersistentVolumeClaim.ClaimName)
		case vol.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(pod, vol))
		}
	}
	return names
}

// classKey writes down everything of pod that placement reads.
func classKey(pod *v1.Pod, profile *Profile, affinity *v1.Affinity, defaults labels.Selector) string {
	spec := &pod.Spec
	relevant := v1.PodSpec{
		NodeSelector: spec.NodeSelector, Affinity: affinity, Tolerations: spec.Tolerations, TopologySpreadConstraints: spec.TopologySpreadConstraints,
		Priority: spec.Priority, PreemptionPolicy: spec.PreemptionPolicy, Overhead: spec.Overhead, Resources: spec.Resources,
		ResourceClaims: spec.ResourceClaims, InitContainers: relevantContainers(spec.InitContainers), Containers: relevantContainers(spec.Containers),
		OS: spec.OS, HostNetwork: spec.HostNetwork,
	}
	for i := range spec.Volumes {
		if vol := &spec.Volumes[i]; vol.CSI != nil || vol.GCEPersistentDisk != nil || vol.AWSElasticBlockStore != nil || vol.RBD != nil || vol.ISCSI != nil {
			relevant.Volumes = append(relevant.Volumes, *vol)
		}
	}
	// Marshalling sorts maps, so equal specs give equal bytes. It cannot fail on a value in memory.
	bytes, _ := relevant.Marshal()
	var b strings.Builder
	b.Write(bytes)
	for _, part := range []string{"\x00", profile.SchedulerName, pod.Namespace, labels.Set(pod.Labels).String(), pod.Annotations[DataSourcesAnnotation],
		strings.Join(claimNames(pod), ",")} {
		b.WriteByte(0)
		b.WriteString(part)
	}
	if defaults != nil {
		b.WriteByte(1)
		b.WriteString(defaults.String())
	}
	if len(spec.ResourceClaims) > 0 {
		// A claim generated for this pod belongs to it alone.
		b.WriteString(string(pod.UID))
	}
	return b.String()
}

func relevantContainers(containers []v1.Container) []v1.Container {
	out := make([]v1.Container, len(containers))
	for i := range containers {
		c := &containers[i]
		out[i] = v1.Container{Image: c.Image, Resources: c.Resources, RestartPolicy: c.RestartPolicy}
		if slices.ContainsFunc(c.Ports, func(p v1.ContainerPort) bool { return p.HostPort != 0 }) {
			out[i].Ports = c.Ports
		}
	}
	return out
}
