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

// Needs is what a pod asks of one node, whatever its labels are and whoever else is there. All replicas of a controller share it.
type Needs struct {
	Profile  *Profile
	Priority int32
	Sample   *v1.Pod // the first pod with these needs; only fields that are in the key may be read from it

	shape      *cluster.Shape // without Terms
	namespace  string         // of the claims; "" if there are none
	required   nodeaffinity.RequiredNodeAffinity
	added      *nodeaffinity.NodeSelector
	preferred  []*nodeaffinity.PreferredSchedulingTerms
	selective  bool // required or added can refuse a node
	prefersNot []v1.Toleration
	claims     []string // namespace/name of the claims that volumes name
	unresolved string   // a text if the pod's spec cannot be understood

	id       uint64
	key      string
	verdicts *verdicts
	used     uint64 // evaluator's clock at the last use
}

// Class is what pods with the same needs, labels and wishes about other pods have in common.
type Class struct {
	*Needs
	Namespace string
	Labels    labels.Set
	Shape     *cluster.Shape

	spread []spreadConstraint
	bad    string // a text if the pod's terms cannot be understood
	key    string
	view   *View
	used   uint64
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
	affinity, pinned := unpin(pod)
	var selector labels.Selector
	if len(pod.Spec.TopologySpreadConstraints) == 0 && len(profile.DefaultConstraints) > 0 && e.Defaults != nil {
		selector = e.Defaults(pod)
	}
	e.clock++
	key := needsKey(pod, profile, affinity)
	n := e.needs[key]
	if n == nil {
		n = e.newNeeds(pod, profile, affinity)
		n.key, n.id = key, e.clock
		e.needs[key] = n
	}
	n.used = e.clock
	key = n.classKey(pod, selector)
	c := e.classes[key]
	if c == nil {
		c = e.newClass(n, pod, selector)
		c.key = key
		e.classes[key] = c
		e.forget()
	}
	c.used = e.clock
	return Request{Pod: pod, Class: c, Pinned: pinned}
}

func (e *Evaluator) newNeeds(pod *v1.Pod, profile *Profile, affinity *v1.NodeAffinity) *Needs {
	n := &Needs{Profile: profile, Priority: corev1helpers.PodPriority(pod), Sample: pod, shape: e.State.NodeShape(pod)}
	n.required = nodeaffinity.NewRequiredNodeAffinity(pod.Spec.NodeSelector, &v1.Affinity{NodeAffinity: affinity})
	n.selective = len(pod.Spec.NodeSelector) > 0
	if affinity != nil {
		n.selective = n.selective || affinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
		n.prefer(affinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if added := profile.AddedAffinity; added != nil {
		n.prefer(added.PreferredDuringSchedulingIgnoredDuringExecution)
		if required := added.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			n.selective = true
			var err error
			if n.added, err = nodeaffinity.NewNodeSelector(required); err != nil {
				n.unresolved = fmt.Sprintf("addedAffinity of profile %s: %v", profile.SchedulerName, err)
			}
		}
	}
	for _, t := range pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == v1.TaintEffectPreferNoSchedule {
			n.prefersNot = append(n.prefersNot, t)
		}
	}
	n.namespace = pod.Namespace
	for _, name := range claimNames(pod) {
		n.claims = append(n.claims, pod.Namespace+"/"+name)
	}
	return n
}

func (e *Evaluator) newClass(n *Needs, pod *v1.Pod, defaults labels.Selector) *Class {
	c := &Class{Needs: n, Namespace: pod.Namespace, Labels: pod.Labels}
	shape := *n.shape
	var err error
	if shape.Terms, err = cluster.Terms(pod); err != nil {
		c.bad = err.Error()
	}
	c.Shape = &shape
	if c.spread, err = spreadConstraints(pod, n.Profile, defaults); err != nil {
		c.bad = err.Error()
	}
	return c
}

func (n *Needs) prefer(terms []v1.PreferredSchedulingTerm) {
	if len(terms) == 0 {
		return
	}
	if p, err := nodeaffinity.NewPreferredSchedulingTerms(terms); err == nil {
		n.preferred = append(n.preferred, p)
	}
}

// unpin returns pod's node affinity without the requirement on one node's name, which the DaemonSet controller adds to every term, and that name. What
// is left is the same for all pods of a DaemonSet.
func unpin(pod *v1.Pod) (*v1.NodeAffinity, string) {
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return nil, ""
	}
	affinity := pod.Spec.Affinity.NodeAffinity
	if affinity.RequiredDuringSchedulingIgnoredDuringExecution == nil || len(pod.Spec.TopologySpreadConstraints) > 0 {
		return affinity, "" // spread constraints count only the nodes that affinity allows
	}
	pinned := ""
	terms := affinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
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
	rest := &v1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: affinity.PreferredDuringSchedulingIgnoredDuringExecution}
	open := false // some term asked for nothing but the name
	var left []v1.NodeSelectorTerm
	for i := range terms {
		open = open || len(terms[i].MatchExpressions) == 0
		left = append(left, v1.NodeSelectorTerm{MatchExpressions: terms[i].MatchExpressions})
	}
	if !open {
		rest.RequiredDuringSchedulingIgnoredDuringExecution = &v1.NodeSelector{NodeSelectorTerms: left}
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

// needsKey writes down everything of pod that a node alone is asked about.
func needsKey(pod *v1.Pod, profile *Profile, affinity *v1.NodeAffinity) string {
	spec := &pod.Spec
	relevant := v1.PodSpec{
		NodeSelector: spec.NodeSelector, Tolerations: spec.Tolerations, Priority: spec.Priority, PreemptionPolicy: spec.PreemptionPolicy,
		Overhead: spec.Overhead, Resources: spec.Resources, ResourceClaims: spec.ResourceClaims, OS: spec.OS, HostNetwork: spec.HostNetwork,
		InitContainers: relevantContainers(spec.InitContainers), Containers: relevantContainers(spec.Containers),
	}
	if affinity != nil {
		relevant.Affinity = &v1.Affinity{NodeAffinity: affinity}
	}
	for i := range spec.Volumes {
		if vol := &spec.Volumes[i]; vol.CSI != nil || vol.GCEPersistentDisk != nil || vol.AWSElasticBlockStore != nil || vol.RBD != nil || vol.ISCSI != nil {
			relevant.Volumes = append(relevant.Volumes, *vol)
		}
	}
	// Marshalling sorts maps, so equal specs give equal bytes. It cannot fail on a value in memory.
	bytes, _ := relevant.Marshal()
	key := string(bytes) + "\x00" + profile.SchedulerName
	claims, sources := claimNames(pod), pod.Annotations[DataSourcesAnnotation]
	if len(claims) > 0 || sources != "" {
		key += "\x00" + pod.Namespace + "\x00" + sources + "\x00" + strings.Join(claims, ",")
	}
	if len(spec.ResourceClaims) > 0 {
		key += "\x00" + string(pod.UID) // a claim may be generated for this pod alone
		for _, status := range pod.Status.ResourceClaimStatuses {
			if status.ResourceClaimName != nil {
				key += "\x00" + *status.ResourceClaimName
			}
		}
	}
	return key
}

// classKey writes down what is in a class besides its needs.
func (n *Needs) classKey(pod *v1.Pod, defaults labels.Selector) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d\x00%s\x00%s\x00", n.id, pod.Namespace, labels.Set(pod.Labels))
	rest := v1.PodSpec{TopologySpreadConstraints: pod.Spec.TopologySpreadConstraints}
	if a := pod.Spec.Affinity; a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil) {
		rest.Affinity = &v1.Affinity{PodAffinity: a.PodAffinity, PodAntiAffinity: a.PodAntiAffinity}
	}
	if len(rest.TopologySpreadConstraints) > 0 || rest.Affinity != nil {
		bytes, _ := rest.Marshal()
		b.Write(bytes)
	}
	if defaults != nil {
		b.WriteByte(0)
		b.WriteString(defaults.String())
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

// UsesClaim reports whether pods of the class use a claim (namespace/name).
func (n *Needs) UsesClaim(key string) bool { return slices.Contains(n.claims, key) }
