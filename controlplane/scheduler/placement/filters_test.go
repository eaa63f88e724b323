// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

func aNode(name string, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("4Gi"),
			v1.ResourcePods: resource.MustParse("10")}}}
	for _, f := range change {
		f(n)
	}
	return n
}

func zone(z string) func(*v1.Node) {
	return func(n *v1.Node) { n.Labels[v1.LabelTopologyZone] = z }
}

func taint(key string, effect v1.TaintEffect) func(*v1.Node) {
	return func(n *v1.Node) { n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Effect: effect}) }
}

func aPod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func at(node string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.NodeName = node } }

func app(name string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Labels = map[string]string{"app": name} }
}

func requests(list string) v1.ResourceRequirements {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{}}
	for pair := range strings.SplitSeq(list, ",") {
		name, amount, _ := strings.Cut(pair, "=")
		r.Requests[v1.ResourceName(name)] = resource.MustParse(amount)
	}
	return r
}

func asking(list string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Containers[0].Resources = requests(list) }
}

func initContainer(list string, sidecar bool) func(*v1.Pod) {
	return func(p *v1.Pod) {
		c := v1.Container{Name: "init", Resources: requests(list)}
		if sidecar {
			c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
}

func hostPort(port int32, ip string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: port, HostIP: ip}} }
}

func nodeMatches(key string, op v1.NodeSelectorOperator, values ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
			NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}}}}}
	}
}

func toApp(name, topologyKey string) v1.PodAffinityTerm {
	return v1.PodAffinityTerm{TopologyKey: topologyKey, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}}
}

func near(terms ...v1.PodAffinityTerm) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
	}
}

func away(terms ...v1.PodAffinityTerm) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
	}
}

func spreadOver(key string, maxSkew int32, change ...func(*v1.TopologySpreadConstraint)) func(*v1.Pod) {
	return func(p *v1.Pod) {
		c := v1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: maxSkew, WhenUnsatisfiable: v1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}
		for _, f := range change {
			f(&c)
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

func claiming(names ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		for _, name := range names {
			p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: name, VolumeSource: v1.VolumeSource{
				PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		}
	}
}

func aClaim(name, class, volume string, mode v1.PersistentVolumeAccessMode) *v1.PersistentVolumeClaim {
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Annotations: map[string]string{}},
		Spec: v1.PersistentVolumeClaimSpec{StorageClassName: &class, VolumeName: volume, AccessModes: []v1.PersistentVolumeAccessMode{mode},
			Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("10Gi")}}}}
	if volume != "" {
		c.Annotations["pv.kubernetes.io/bind-completed"] = "yes"
	}
	return c
}

func aVolume(name, class, host, driver string) *v1.PersistentVolume {
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
		Spec: v1.PersistentVolumeSpec{StorageClassName: class, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
			Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("20Gi")}},
		Status: v1.PersistentVolumeStatus{Phase: v1.VolumeAvailable}}
	if driver != "" {
		pv.Spec.CSI = &v1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: name}
	}
	if host != "" {
		pv.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{host}}}}}}}
	}
	return pv
}

func waitingClass(name, provisioner string, zones ...string) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner,
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	if len(zones) > 0 {
		c.AllowedTopologies = []v1.TopologySelectorTerm{{MatchLabelExpressions: []v1.TopologySelectorLabelRequirement{{Key: v1.LabelTopologyZone, Values: zones}}}}
	}
	return c
}

const ok = ""

const (
	spreadText   = "node(s) didn't match pod topology spread constraints"
	labelText    = "node(s) didn't match pod topology spread constraints (missing required label)"
	nearText     = "node(s) didn't match pod affinity rules"
	awayText     = "node(s) didn't match pod anti-affinity rules"
	existingText = "node(s) didn't satisfy existing pods anti-affinity rules"
	affinityText = "node(s) didn't match Pod's node affinity/selector"
)

func TestFilters(t *testing.T) {
	host, zoneKey := v1.LabelHostname, v1.LabelTopologyZone
	honor, ignore := v1.NodeInclusionPolicyHonor, v1.NodeInclusionPolicyIgnore
	for name, c := range map[string]struct {
		nodes   []*v1.Node
		pods    []*v1.Pod
		storage func(*cluster.State)
		pod     *v1.Pod
		want    map[string]string // by node
		blocked string
	}{
		"a cordoned node takes no pod": {
			nodes: []*v1.Node{aNode("n", func(n *v1.Node) { n.Spec.Unschedulable = true })}, pod: aPod("p"), want: map[string]string{"n": "node(s) were unschedulable"}},
		"a cordoned node takes a pod that tolerates it": {
			nodes: []*v1.Node{aNode("n", func(n *v1.Node) { n.Spec.Unschedulable = true })},
			pod: aPod("p", func(p *v1.Pod) {
				p.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeUnschedulable, Operator: v1.TolerationOpExists}}
			}), want: map[string]string{"n": ok}},
		"an untolerated NoExecute taint refuses, PreferNoSchedule does not": {
			nodes: []*v1.Node{aNode("hard", taint("k", v1.TaintEffectNoExecute)), aNode("soft", taint("k", v1.TaintEffectPreferNoSchedule))}, pod: aPod("p"),
			want: map[string]string{"hard": "node(s) had untolerated taint {k: }", "soft": ok}},
		"node affinity by Gt and a missing label": {
			nodes: []*v1.Node{aNode("many", func(n *v1.Node) { n.Labels["cores"] = "16" }), aNode("few", func(n *v1.Node) { n.Labels["cores"] = "8" }), aNode("unknown")},
			pod:   aPod("p", nodeMatches("cores", v1.NodeSelectorOpGt, "8")), want: map[string]string{"many": ok, "few": affinityText, "unknown": affinityText}},
		"several resources that are missing are all named": {
			nodes: []*v1.Node{aNode("n")}, pod: aPod("p", asking("cpu=3,memory=5Gi,example.com/gpu=1")),
			want: map[string]string{"n": "Insufficient cpu; Insufficient memory; Insufficient example.com/gpu"}},
		"the largest init container counts, not the sum": {
			nodes: []*v1.Node{aNode("n")}, pod: aPod("p", asking("cpu=500m"), initContainer("cpu=2", false), initContainer("cpu=1500m", false)), want: map[string]string{"n": ok}},
		"a sidecar counts on top": {
			nodes: []*v1.Node{aNode("n")}, pod: aPod("p", asking("cpu=1500m"), initContainer("cpu=600m", true)), want: map[string]string{"n": "Insufficient cpu"}},
		"overhead counts on top": {
			nodes: []*v1.Node{aNode("n")}, pod: aPod("p", asking("cpu=1900m"), func(p *v1.Pod) { p.Spec.Overhead = requests("cpu=200m").Requests }),
			want: map[string]string{"n": "Insufficient cpu"}},
		"pod-level requests replace the sum of the containers": {
			nodes: []*v1.Node{aNode("n")}, pod: aPod("p", asking("cpu=500m"), func(p *v1.Pod) { r := requests("cpu=3"); p.Spec.Resources = &r }),
			want: map[string]string{"n": "Insufficient cpu"}},
		"a full node has too many pods": {
			nodes: []*v1.Node{aNode("n", func(n *v1.Node) { n.Status.Allocatable[v1.ResourcePods] = resource.MustParse("1") })}, pods: []*v1.Pod{aPod("a", at("n"))},
			pod: aPod("p"), want: map[string]string{"n": "Too many pods"}},
		"pods that have ended take nothing": {
			nodes: []*v1.Node{aNode("n")}, pods: []*v1.Pod{aPod("a", at("n"), asking("cpu=2"), func(p *v1.Pod) { p.Status.Phase = v1.PodFailed })},
			pod: aPod("p", asking("cpu=2")), want: map[string]string{"n": ok}},
		"a host port conflicts with the same port on every address": {
			nodes: []*v1.Node{aNode("n")}, pods: []*v1.Pod{aPod("a", at("n"), hostPort(80, "127.0.0.1"))}, pod: aPod("p", hostPort(80, "")),
			want: map[string]string{"n": "node(s) didn't have free ports for the requested pod ports"}},
		"host ports on different addresses do not conflict": {
			nodes: []*v1.Node{aNode("n")}, pods: []*v1.Pod{aPod("a", at("n"), hostPort(80, "127.0.0.1"))}, pod: aPod("p", hostPort(80, "127.0.0.2")), want: map[string]string{"n": ok}},

		"affinity wants the domain of a matching pod": {
			nodes: []*v1.Node{aNode("a1", zone("a")), aNode("a2", zone("a")), aNode("b1", zone("b")), aNode("lost")}, pods: []*v1.Pod{aPod("db", at("a1"), app("db"))},
			pod: aPod("p", near(toApp("db", zoneKey))), want: map[string]string{"a1": ok, "a2": ok, "b1": nearText, "lost": nearText}},
		"the first pod of a group that wants to be together may go anywhere": {
			nodes: []*v1.Node{aNode("a1", zone("a")), aNode("lost")}, pod: aPod("p", near(toApp("web", zoneKey))), want: map[string]string{"a1": ok, "lost": nearText}},
		"affinity to others has no such exception": {
			nodes: []*v1.Node{aNode("a1", zone("a"))}, pod: aPod("p", near(toApp("db", zoneKey))), want: map[string]string{"a1": nearText}},
		"one pod must match all affinity terms": {
			nodes: []*v1.Node{aNode("a1", zone("a"))}, pods: []*v1.Pod{aPod("db", at("a1"), app("db")), aPod("web", at("a1"))},
			pod: aPod("p", near(toApp("db", zoneKey), toApp("web", zoneKey))), want: map[string]string{"a1": nearText}},
		"affinity counts only pods of its own namespace": {
			nodes: []*v1.Node{aNode("a1", zone("a"))}, pods: []*v1.Pod{aPod("db", at("a1"), app("db"), func(p *v1.Pod) { p.Namespace = "other" })},
			pod: aPod("p", near(toApp("db", zoneKey))), want: map[string]string{"a1": nearText}},
		"an empty namespace selector means all namespaces": {
			nodes: []*v1.Node{aNode("a1", zone("a"))}, pods: []*v1.Pod{aPod("db", at("a1"), app("db"), func(p *v1.Pod) { p.Namespace = "other" })},
			pod: aPod("p", near(func() v1.PodAffinityTerm {
				term := toApp("db", zoneKey)
				term.NamespaceSelector = &metav1.LabelSelector{}
				return term
			}())), want: map[string]string{"a1": ok}},
		"anti-affinity keeps away from the domain, and a node without the label is fine": {
			nodes: []*v1.Node{aNode("a1", zone("a")), aNode("a2", zone("a")), aNode("b1", zone("b")), aNode("lost")}, pods: []*v1.Pod{aPod("db", at("a1"), app("db"))},
			pod: aPod("p", away(toApp("db", zoneKey))), want: map[string]string{"a1": awayText, "a2": awayText, "b1": ok, "lost": ok}},
		"pods that are there keep others away": {
			nodes: []*v1.Node{aNode("n1"), aNode("n2")}, pods: []*v1.Pod{aPod("loner", at("n1"), app("db"), away(toApp("web", host)))}, pod: aPod("p"),
			want: map[string]string{"n1": existingText, "n2": ok}},
		"mismatchLabelKeys keeps other tenants away": {
			nodes: []*v1.Node{aNode("n1"), aNode("n2")},
			pods:  []*v1.Pod{aPod("mine", at("n1"), func(p *v1.Pod) { p.Labels["tenant"] = "a" }), aPod("theirs", at("n2"), func(p *v1.Pod) { p.Labels["tenant"] = "b" })},
			pod: aPod("p", func(p *v1.Pod) { p.Labels["tenant"] = "a" }, away(func() v1.PodAffinityTerm {
				term := toApp("web", host)
				term.MismatchLabelKeys = []string{"tenant"}
				return term
			}())), want: map[string]string{"n1": ok, "n2": awayText}},

		"spread refuses the domain that would exceed maxSkew": {
			nodes: []*v1.Node{aNode("a1", zone("a")), aNode("b1", zone("b")), aNode("lost")}, pods: []*v1.Pod{aPod("w1", at("a1"))},
			pod: aPod("p", spreadOver(zoneKey, 1)), want: map[string]string{"a1": spreadText, "b1": ok, "lost": labelText}},
		"a pod that the selector does not match does not count itself": {
			nodes: []*v1.Node{aNode("a1", zone("a")), aNode("b1", zone("b"))}, pods: []*v1.Pod{aPod("w1", at("a1"))},
			pod: aPod("p", app("other"), spreadOver(zoneKey, 1)), want: map[string]string{"a1": ok, "b1": ok}},
		"terminating pods do not count": {
			nodes: []*v1.Node{aNode("a1", zone("a")), aNode("b1", zone("b"))},
			pods:  []*v1.Pod{aPod("w1", at("a1"), func(p *v1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) })},
			pod:   aPod("p", spreadOver(zoneKey, 1)), want: map[string]string{"a1": ok, "b1": ok}},
		"with fewer domains than minDomains the least is zero": {
			nodes: []*v1.Node{aNode("a1", zone("a")), aNode("b1", zone("b"))}, pods: []*v1.Pod{aPod("w1", at("a1")), aPod("w2", at("b1"))},
			pod:  aPod("p", spreadOver(zoneKey, 1, func(c *v1.TopologySpreadConstraint) { c.MinDomains = ptr.To[int32](3) })),
			want: map[string]string{"a1": spreadText, "b1": spreadText}},
		"domains that node affinity excludes do not count": {
			nodes: []*v1.Node{aNode("a1", zone("a"), func(n *v1.Node) { n.Labels["d"] = "1" }), aNode("b1", zone("b"))}, pods: []*v1.Pod{aPod("w1", at("a1"))},
			pod:  aPod("p", nodeMatches("d", v1.NodeSelectorOpExists), spreadOver(zoneKey, 1)),
			want: map[string]string{"a1": ok, "b1": affinityText}},
		"unless nodeAffinityPolicy is Ignore": {
			nodes: []*v1.Node{aNode("a1", zone("a"), func(n *v1.Node) { n.Labels["d"] = "1" }), aNode("b1", zone("b"))}, pods: []*v1.Pod{aPod("w1", at("a1"))},
			pod:  aPod("p", nodeMatches("d", v1.NodeSelectorOpExists), spreadOver(zoneKey, 1, func(c *v1.TopologySpreadConstraint) { c.NodeAffinityPolicy = &ignore })),
			want: map[string]string{"a1": spreadText, "b1": affinityText}},
		"tainted nodes count unless nodeTaintsPolicy is Honor": {
			nodes: []*v1.Node{aNode("a1", zone("a")), aNode("b1", zone("b"), taint("k", v1.TaintEffectNoSchedule))}, pods: []*v1.Pod{aPod("w1", at("a1"))},
			pod:  aPod("p", spreadOver(zoneKey, 1, func(c *v1.TopologySpreadConstraint) { c.NodeTaintsPolicy = &honor })),
			want: map[string]string{"a1": ok, "b1": "node(s) had untolerated taint {k: }"}},
		"matchLabelKeys counts only the own revision": {
			nodes: []*v1.Node{aNode("a1", zone("a")), aNode("b1", zone("b"))}, pods: []*v1.Pod{aPod("w1", at("a1"), func(p *v1.Pod) { p.Labels["rev"] = "1" })},
			pod: aPod("p", func(p *v1.Pod) { p.Labels["rev"] = "2" }, spreadOver(zoneKey, 1, func(c *v1.TopologySpreadConstraint) {
				c.MatchLabelKeys = []string{"rev"}
			})), want: map[string]string{"a1": ok, "b1": ok}},

		"a claim that does not exist blocks": {
			nodes: []*v1.Node{aNode("n")}, pod: aPod("p", claiming("data")), blocked: `persistentvolumeclaim "data" not found`},
		"an unbound immediate claim blocks": {
			nodes: []*v1.Node{aNode("n")}, pod: aPod("p", claiming("data")), blocked: "pod has unbound immediate PersistentVolumeClaims",
			storage: func(s *cluster.State) { s.Storage.SetClaim(aClaim("data", "now", "", v1.ReadWriteOnce)) }},
		"a bound local volume allows only its node": {
			nodes: []*v1.Node{aNode("n1"), aNode("n2")}, pod: aPod("p", claiming("data")),
			storage: func(s *cluster.State) {
				s.Storage.SetVolume(aVolume("pv", "c", "n1", ""))
				s.Storage.SetClaim(aClaim("data", "c", "pv", v1.ReadWriteOnce))
			}, want: map[string]string{"n1": ok, "n2": "node(s) didn't match PersistentVolume's node affinity"}},
		"a waiting claim goes where a volume is free": {
			nodes: []*v1.Node{aNode("n1"), aNode("n2")}, pod: aPod("p", claiming("data")),
			storage: func(s *cluster.State) {
				s.Storage.SetClass("c", waitingClass("c", "kubernetes.io/no-provisioner"))
				s.Storage.SetVolume(aVolume("pv", "c", "n2", ""))
				s.Storage.SetClaim(aClaim("data", "c", "", v1.ReadWriteOnce))
			}, want: map[string]string{"n1": "node(s) didn't find available persistent volumes to bind", "n2": ok}},
		"two waiting claims need two volumes": {
			nodes: []*v1.Node{aNode("n1")}, pod: aPod("p", claiming("one", "two")),
			storage: func(s *cluster.State) {
				s.Storage.SetClass("c", waitingClass("c", "kubernetes.io/no-provisioner"))
				s.Storage.SetVolume(aVolume("pv", "c", "n1", ""))
				s.Storage.SetClaim(aClaim("one", "c", "", v1.ReadWriteOnce))
				s.Storage.SetClaim(aClaim("two", "c", "", v1.ReadWriteOnce))
			}, want: map[string]string{"n1": "node(s) didn't find available persistent volumes to bind"}},
		"a volume assumed for another claim is not free": {
			nodes: []*v1.Node{aNode("n1")}, pod: aPod("p", claiming("data")),
			storage: func(s *cluster.State) {
				s.Storage.SetClass("c", waitingClass("c", "kubernetes.io/no-provisioner"))
				s.Storage.SetVolume(aVolume("pv", "c", "n1", ""))
				s.Storage.SetClaim(aClaim("data", "c", "", v1.ReadWriteOnce))
				s.Storage.AssumeVolume("pv", "default/other")
			}, want: map[string]string{"n1": "node(s) didn't find available persistent volumes to bind"}},
		"a waiting claim is provisioned only in allowed topologies": {
			nodes: []*v1.Node{aNode("n1", zone("a")), aNode("n2", zone("b"))}, pod: aPod("p", claiming("data")),
			storage: func(s *cluster.State) {
				s.Storage.SetClass("c", waitingClass("c", "csi.example", "b"))
				s.Storage.SetClaim(aClaim("data", "c", "", v1.ReadWriteOnce))
			}, want: map[string]string{"n1": "node(s) didn't find available persistent volumes to bind", "n2": ok}},
		"a driver that publishes capacity needs enough of it": {
			nodes: []*v1.Node{aNode("n1", zone("a")), aNode("n2", zone("b"))}, pod: aPod("p", claiming("data")),
			storage: func(s *cluster.State) {
				s.Storage.SetClass("c", waitingClass("c", "csi.example"))
				s.Storage.SetDriver("csi.example", &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{StorageCapacity: ptr.To(true)}})
				for z, size := range map[string]string{"a": "5Gi", "b": "50Gi"} {
					s.Storage.SetCapacity("x/"+z, &storagev1.CSIStorageCapacity{StorageClassName: "c", Capacity: ptr.To(resource.MustParse(size)),
						NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{zoneKey: z}}})
				}
				s.Storage.SetClaim(aClaim("data", "c", "", v1.ReadWriteOnce))
			}, want: map[string]string{"n1": "node(s) did not have enough free storage", "n2": ok}},
		"a volume's zone label excludes other zones": {
			nodes: []*v1.Node{aNode("n1", zone("a")), aNode("n2", zone("b")), aNode("n3", zone("c"))}, pod: aPod("p", claiming("data")),
			storage: func(s *cluster.State) {
				pv := aVolume("pv", "c", "", "")
				pv.Labels[zoneKey] = "a__c"
				s.Storage.SetVolume(pv)
				s.Storage.SetClaim(aClaim("data", "c", "pv", v1.ReadWriteOnce))
			}, want: map[string]string{"n1": ok, "n2": "node(s) had no available volume zone", "n3": ok}},
		"a driver attaches only so many volumes, and a shared claim counts once": {
			nodes: []*v1.Node{aNode("n1"), aNode("n2")}, pods: []*v1.Pod{aPod("a", at("n1"), claiming("one")), aPod("b", at("n2"), claiming("data"))},
			pod: aPod("p", claiming("data")),
			storage: func(s *cluster.State) {
				for _, name := range []string{"one", "data"} {
					s.Storage.SetVolume(aVolume("pv-"+name, "c", "", "csi.example"))
					s.Storage.SetClaim(aClaim(name, "c", "pv-"+name, v1.ReadWriteMany))
				}
				for _, n := range []string{"n1", "n2"} {
					s.SetCSINode(n, &storagev1.CSINode{Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "csi.example",
						Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To[int32](1)}}}}})
				}
			}, want: map[string]string{"n1": "node(s) exceed max volume count", "n2": ok}},
		"a ReadWriteOncePod claim in use refuses everywhere": {
			nodes: []*v1.Node{aNode("n1"), aNode("n2")}, pods: []*v1.Pod{aPod("a", at("n1"), claiming("data"))}, pod: aPod("p", claiming("data")),
			storage: func(s *cluster.State) {
				s.Storage.SetVolume(aVolume("pv", "c", "", ""))
				s.Storage.SetClaim(aClaim("data", "c", "pv", v1.ReadWriteOncePod))
			}, want: map[string]string{
				"n1": "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
				"n2": "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"}},
	} {
		t.Run(name, func(t *testing.T) {
			state := cluster.New()
			for _, n := range c.nodes {
				state.SetNode(n)
			}
			if c.storage != nil {
				c.storage(state)
			}
			for _, p := range c.pods {
				state.SetPod(p)
			}
			e := New(state)
			rows, blocked := e.Explain(e.Classify(c.pod, DefaultProfile()))
			if blocked != c.blocked {
				t.Errorf("blocked by %q, want %q", blocked, c.blocked)
			}
			got := map[string]string{}
			for _, r := range rows {
				got[r.Node] = strings.Join(r.Reasons, "; ")
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("nodes say\n  %s, want\n  %s", fmt.Sprint(got), fmt.Sprint(c.want))
			}
		})
	}
}
