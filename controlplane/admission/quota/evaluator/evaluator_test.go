// SPDX-License-Identifier: Apache-2.0

package evaluator

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/client-go/tools/cache"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

func of(t *testing.T, resource string, list quota.ListerForResourceFunc) quota.Evaluator {
	t.Helper()
	for _, e := range All(list, clocktesting.NewFakePassiveClock(now)) {
		if e.GroupResource().Resource == resource {
			return e
		}
	}
	t.Fatalf("no evaluator for %s", resource)
	return nil
}

func amounts(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, f := range strings.Fields(text) {
		i := strings.LastIndex(f, "=")
		out[corev1.ResourceName(f[:i])] = resource.MustParse(f[i+1:])
	}
	return out
}

func text(list corev1.ResourceList) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(list)) {
		q := list[k]
		out = append(out, string(k)+"="+q.String())
	}
	return strings.Join(out, " ")
}

func pod(change func(*corev1.Pod), pairs ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}}
	for i := 0; i < len(pairs); i += 2 {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: string(rune('a' + i/2)),
			Resources: corev1.ResourceRequirements{Requests: amounts(pairs[i]), Limits: amounts(pairs[i+1])}})
	}
	if change != nil {
		change(p)
	}
	return p
}

func TestUsage(t *testing.T) {
	deleted := func(ago time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(now.Add(-ago))), ptr.To[int64](30)
		}
	}
	service := func(kind corev1.ServiceType, allocate *bool, nodePorts ...int32) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, AllocateLoadBalancerNodePorts: allocate}}
		for _, p := range nodePorts {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{NodePort: p})
		}
		return s
	}
	gold := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("gold"),
		Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage=5Gi")}}}
	shrunk := gold.DeepCopy()
	shrunk.Status.AllocatedResources = amounts("storage=8Gi")
	exactly := func(class string, mode resourcev1.DeviceAllocationMode, count int64) resourcev1.DeviceRequest {
		return resourcev1.DeviceRequest{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: mode, Count: count}}
	}
	for _, c := range []struct {
		name     string
		resource string
		obj      runtime.Object
		want     string
	}{
		{"a pod that asks for nothing", "pods", pod(nil, "", ""), "count/pods=1 pods=1"},
		{"two containers", "pods", pod(nil, "cpu=100m memory=1Gi", "cpu=1", "cpu=200m", ""),
			"count/pods=1 cpu=300m limits.cpu=1 memory=1Gi pods=1 requests.cpu=300m requests.memory=1Gi"},
		{"a greater init container", "pods", pod(func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: amounts("cpu=2")}}}
		}, "cpu=100m", ""), "count/pods=1 cpu=2 pods=1 requests.cpu=2"},
		{"overhead", "pods", pod(func(p *corev1.Pod) { p.Spec.Overhead = amounts("cpu=50m") }, "cpu=100m", ""), "count/pods=1 cpu=150m pods=1 requests.cpu=150m"},
		{"devices and huge pages", "pods", pod(nil, "example.com/gpu=2 hugepages-2Mi=4Mi", "example.com/gpu=2 hugepages-2Mi=4Mi"),
			"count/pods=1 hugepages-2Mi=4Mi pods=1 requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi"},
		{"a pod that ended", "pods", pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, "cpu=1", ""), "count/pods=1"},
		{"a pod on its way out", "pods", pod(deleted(-time.Second), "cpu=1", ""), "count/pods=1 cpu=1 pods=1 requests.cpu=1"},
		{"a pod that should be gone", "pods", pod(deleted(time.Second), "cpu=1", ""), "count/pods=1"},
		{"a cluster service", "services", service(corev1.ServiceTypeClusterIP, nil, 0), "count/services=1 services=1 services.loadbalancers=0 services.nodeports=0"},
		{"two node ports", "services", service(corev1.ServiceTypeNodePort, nil, 30000, 0),
			"count/services=1 services=1 services.loadbalancers=0 services.nodeports=2"},
		{"a load balancer", "services", service(corev1.ServiceTypeLoadBalancer, nil, 0), "count/services=1 services=1 services.loadbalancers=1 services.nodeports=1"},
		{"a load balancer with one port of its own wish", "services", service(corev1.ServiceTypeLoadBalancer, ptr.To(false), 30000, 0),
			"count/services=1 services=1 services.loadbalancers=1 services.nodeports=1"},
		{"a claim of a class", "persistentvolumeclaims", gold, "count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 " +
			"gold.storageclass.storage.k8s.io/requests.storage=5Gi persistentvolumeclaims=1 requests.storage=5Gi"},
		{"a claim whose expansion is taken back", "persistentvolumeclaims", shrunk,
			"count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 " +
				"gold.storageclass.storage.k8s.io/requests.storage=8Gi persistentvolumeclaims=1 requests.storage=8Gi"},
		{"devices", "resourceclaims", &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
			exactly("gpu", resourcev1.DeviceAllocationModeExactCount, 2), exactly("nic", resourcev1.DeviceAllocationModeAll, 0),
			{FirstAvailable: []resourcev1.DeviceSubRequest{{DeviceClassName: "gpu", Count: 3}, {DeviceClassName: "gpu", Count: 1}}},
		}}}}, "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=5 nic.deviceclass.resource.k8s.io/devices=32"},
		{"a secret", "secrets", &corev1.Secret{}, "count/secrets=1 secrets=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			used, err := of(t, c.resource, nil).Usage(c.obj)
			if err != nil {
				t.Fatal(err)
			}
			if got := text(used); got != c.want {
				t.Errorf("uses %s\nwant %s", got, c.want)
			}
		})
	}
	if _, err := of(t, "pods", nil).Usage(&corev1.Service{}); err == nil {
		t.Error("a service was measured as a pod")
	}
}

func TestScopes(t *testing.T) {
	affinity := func(a *corev1.Affinity) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Affinity = a } }
	classed := func(name string) *corev1.Pod { return pod(func(p *corev1.Pod) { p.Spec.PriorityClassName = name }) }
	term := corev1.PodAffinityTerm{Namespaces: []string{"b"}}
	scope := func(name corev1.ResourceQuotaScope, op corev1.ScopeSelectorOperator, values ...string) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: op, Values: values}
	}
	exists := corev1.ScopeSelectorOpExists
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		s    corev1.ScopedResourceSelectorRequirement
		want bool
	}{
		{"a deadline", pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) }), scope(corev1.ResourceQuotaScopeTerminating, exists), true},
		{"no deadline", pod(nil), scope(corev1.ResourceQuotaScopeTerminating, exists), false},
		{"no deadline, not terminating", pod(nil), scope(corev1.ResourceQuotaScopeNotTerminating, exists), true},
		{"asks for nothing", pod(nil, "", ""), scope(corev1.ResourceQuotaScopeBestEffort, exists), true},
		{"asks for zero", pod(nil, "cpu=0", ""), scope(corev1.ResourceQuotaScopeBestEffort, exists), true},
		{"asks for a device only", pod(nil, "example.com/gpu=1", ""), scope(corev1.ResourceQuotaScopeBestEffort, exists), true},
		{"asks for cpu", pod(nil, "cpu=1m", ""), scope(corev1.ResourceQuotaScopeBestEffort, exists), false},
		{"a limit is asking", pod(nil, "", "memory=1Mi"), scope(corev1.ResourceQuotaScopeNotBestEffort, exists), true},
		{"in a class", classed("high"), scope(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpIn, "high", "low"), true},
		{"in another class", classed("mid"), scope(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpIn, "high", "low"), false},
		{"not in a class", classed("mid"), scope(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpNotIn, "high"), true},
		{"any class", classed("mid"), scope(corev1.ResourceQuotaScopePriorityClass, exists), true},
		{"no class", classed(""), scope(corev1.ResourceQuotaScopePriorityClass, corev1.ScopeSelectorOpDoesNotExist), true},
		{"affinity to another namespace", pod(affinity(&corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}})),
			scope(corev1.ResourceQuotaScopeCrossNamespacePodAffinity, exists), true},
		{"anti-affinity by preference", pod(affinity(&corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{PodAffinityTerm: corev1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{}}}}}})),
			scope(corev1.ResourceQuotaScopeCrossNamespacePodAffinity, exists), true},
		{"affinity in its own namespace", pod(affinity(&corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{}}}})),
			scope(corev1.ResourceQuotaScopeCrossNamespacePodAffinity, exists), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := of(t, "pods", nil).MatchingScopes(c.pod, []corev1.ScopedResourceSelectorRequirement{c.s})
			if err != nil {
				t.Fatal(err)
			}
			if (len(got) == 1) != c.want {
				t.Errorf("within %v: %v, want %v", c.s, len(got) == 1, c.want)
			}
		})
	}
}

func TestConstraints(t *testing.T) {
	for _, c := range []struct {
		name     string
		required string
		pod      *corev1.Pod
		want     string
	}{
		{"all ask", "requests.cpu limits.memory", pod(nil, "cpu=1", "memory=1Gi"), ""},
		{"one does not", "cpu", pod(nil, "cpu=1", "", "", ""), "must specify cpu for: b"},
		{"two things are missing", "requests.memory limits.cpu", pod(nil, "", "", "", ""), "must specify limits.cpu for: a,b; requests.memory for: a,b"},
		{"an init container does not", "cpu", pod(func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "i"}} }, "cpu=1", ""),
			"must specify cpu for: i"},
		{"the pod as a whole asks", "cpu", pod(func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("cpu=1")} }, "", ""), ""},
		{"a count needs no words", "pods count/pods", pod(nil, "", ""), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var required []corev1.ResourceName
			for _, f := range strings.Fields(c.required) {
				required = append(required, corev1.ResourceName(f))
			}
			err := of(t, "pods", nil).Constraints(required, c.pod)
			if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ resource, names, want string }{
		{"pods", "pods cpu requests.cpu limits.memory count/pods hugepages-2Mi requests.hugepages-2Mi requests.example.com/gpu services requests.storage count/services " +
			"gold.storageclass.storage.k8s.io/requests.storage", "pods cpu requests.cpu limits.memory count/pods hugepages-2Mi requests.hugepages-2Mi requests.example.com/gpu"},
		{"persistentvolumeclaims", "pods requests.storage gold.storageclass.storage.k8s.io/requests.storage gold.storageclass.storage.k8s.io/persistentvolumeclaims gold.storageclass.storage.k8s.io/x",
			"requests.storage gold.storageclass.storage.k8s.io/requests.storage gold.storageclass.storage.k8s.io/persistentvolumeclaims"},
		{"services", "services services.nodeports count/services pods", "services services.nodeports count/services"},
		{"resourceclaims", "gpu.deviceclass.resource.k8s.io/devices gpu.deviceclass.resource.k8s.io/x count/resourceclaims.resource.k8s.io",
			"gpu.deviceclass.resource.k8s.io/devices count/resourceclaims.resource.k8s.io"},
	} {
		t.Run(c.resource, func(t *testing.T) {
			var names []corev1.ResourceName
			for _, f := range strings.Fields(c.names) {
				names = append(names, corev1.ResourceName(f))
			}
			var got []string
			for _, n := range of(t, c.resource, nil).MatchingResources(names) {
				got = append(got, string(n))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("uses %q, want %q", got, c.want)
			}
		})
	}
}

func TestUsageOfANamespace(t *testing.T) {
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for i, p := range []*corev1.Pod{pod(nil, "cpu=100m", ""), pod(nil, "cpu=200m", ""), pod(nil, "", "")} {
		p.Name = string(rune('a' + i))
		if err := indexer.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	list := func(gvr schema.GroupVersionResource) (cache.GenericLister, error) {
		return cache.NewGenericLister(indexer, gvr.GroupResource()), nil
	}
	stats, err := of(t, "pods", list).UsageStats(quota.UsageStatsOptions{Namespace: "a", Resources: []corev1.ResourceName{"pods", "requests.cpu"}})
	if err != nil {
		t.Fatal(err)
	}
	if used := stats.Used; used.Pods().Value() != 3 || used.Name("requests.cpu", resource.DecimalSI).MilliValue() != 300 {
		t.Errorf("used %s", text(used))
	}
	stats, err = of(t, "pods", list).UsageStats(quota.UsageStatsOptions{Namespace: "a", Resources: []corev1.ResourceName{"pods"},
		Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}})
	if err != nil || stats.Used.Pods().Value() != 1 {
		t.Errorf("best effort: used %s, %v", text(stats.Used), err)
	}
	if _, err := of(t, "pods", nil).UsageStats(quota.UsageStatsOptions{Namespace: "a"}); err == nil {
		t.Error("usage was added up without a lister")
	}
}
