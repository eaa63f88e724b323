// SPDX-License-Identifier: Apache-2.0

package endpointslice_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/endpointslice"
)

var (
	ctx = context.Background()
	web = map[string]string{"app": "web"}
)

func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: web, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP}},
	}}
	if change != nil {
		change(s)
	}
	return s
}

func pod(i int, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("p", i), Labels: web},
		Spec:       corev1.PodSpec{NodeName: controllertest.NodeName(i % 3), Containers: []corev1.Container{{Name: "c"}}},
	}
	p = controllertest.Running(p, fmt.Sprintf("10.0.%d.%d", i/200, i%200+1), time.Now())
	if change != nil {
		change(p)
	}
	return p
}

// nodes are three nodes in the zones a, b and c.
func nodes() []runtime.Object {
	var out []runtime.Object
	for i := range 3 {
		n := controllertest.Node(controllertest.NodeName(i))
		n.Labels[corev1.LabelTopologyZone] = string(rune('a' + i))
		out = append(out, n)
	}
	return out
}

type world struct{ *controllertest.World }

func start(t *testing.T, objs ...runtime.Object) world {
	w := world{controllertest.NewWorld(t, append(nodes(), objs...), endpointslice.New)}
	w.After(time.Second)
	return w
}

func (w world) slices() []discoveryv1.EndpointSlice {
	return controllertest.Must(w.Client.DiscoveryV1().EndpointSlices("ns").List(ctx, metav1.ListOptions{})).Items
}

// endpoints are all endpoints of all slices, by address.
func (w world) endpoints() map[string]discoveryv1.Endpoint {
	out := map[string]discoveryv1.Endpoint{}
	for _, s := range w.slices() {
		for _, e := range s.Endpoints {
			out[e.Addresses[0]] = e
		}
	}
	return out
}

func TestConditionsOfAnEndpointFollowItsPod(t *testing.T) {
	for _, test := range []struct {
		name                          string
		pod                           func(*corev1.Pod)
		publish                       bool
		ready, serving, leaving, none bool
	}{
		{name: "ready", ready: true, serving: true},
		{name: "not ready", pod: func(p *corev1.Pod) { controller.PodCondition(p, corev1.PodReady).Status = corev1.ConditionFalse }},
		{name: "leaving and still ready", pod: func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) }, serving: true, leaving: true},
		{name: "not ready and published all the same", pod: func(p *corev1.Pod) { controller.PodCondition(p, corev1.PodReady).Status = corev1.ConditionFalse }, publish: true, ready: true},
		{name: "finished", pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, none: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = test.publish }), pod(0, test.pod))
				defer w.Close()
				e, ok := w.endpoints()["10.0.0.1"]
				if ok == test.none {
					t.Fatalf("listed: %v", ok)
				}
				if c := e.Conditions; ok && (*c.Ready != test.ready || *c.Serving != test.serving || *c.Terminating != test.leaving) {
					t.Errorf("ready %v, serving %v, terminating %v", *c.Ready, *c.Serving, *c.Terminating)
				}
				if ok && (*e.NodeName != "node-0" || *e.Zone != "a" || e.TargetRef.Name != "p0") {
					t.Errorf("endpoint %+v", e)
				}
			})
		})
	}
}

func TestDualStackHasSlicesOfBothFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, service(func(s *corev1.Service) {
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		}),
			pod(0, func(p *corev1.Pod) { p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::1"}) }), pod(1, nil))
		defer w.Close()
		got := map[discoveryv1.AddressType]int{}
		for _, s := range w.slices() {
			got[s.AddressType] += len(s.Endpoints)
		}
		if got[discoveryv1.AddressTypeIPv4] != 2 || got[discoveryv1.AddressTypeIPv6] != 1 {
			t.Errorf("endpoints by family %v, want 2 and 1", got)
		}
	})
}

func TestAHundredEndpointsInASliceAndFewWritesForABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, service(nil))
		defer w.Close()
		before := w.Writes("create endpointslices") + w.Writes("update endpointslices")
		for i := range 250 {
			controllertest.Must(w.Client.CoreV1().Pods("ns").Create(ctx, pod(i, nil), metav1.CreateOptions{}))
		}
		w.After(time.Second)
		sizes := []int{}
		for _, s := range w.slices() {
			sizes = append(sizes, len(s.Endpoints))
		}
		slices.Sort(sizes)
		if fmt.Sprint(sizes) != "[50 100 100]" {
			t.Errorf("slices of %v endpoints", sizes)
		}
		if n := w.Writes("create endpointslices") + w.Writes("update endpointslices") - before; n > 4 {
			t.Errorf("%d writes for 250 pods at once, want 4 at most", n)
		}
	})
}

func TestWhatSomebodyChangedOrDeletedIsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, service(nil), pod(0, nil))
		defer w.Close()
		s := w.slices()[0]
		s.Endpoints = nil
		controllertest.Must(w.Client.DiscoveryV1().EndpointSlices("ns").Update(ctx, &s, metav1.UpdateOptions{}))
		w.After(time.Second)
		if len(w.endpoints()) != 1 {
			t.Error("an emptied slice stayed empty")
		}
		w.Check(w.Client.DiscoveryV1().EndpointSlices("ns").Delete(ctx, w.slices()[0].Name, metav1.DeleteOptions{}))
		w.After(time.Second)
		if len(w.endpoints()) != 1 {
			t.Error("a deleted slice stayed away")
		}
	})
}

func TestSlicesOfOthersAndServicesWithoutSelectorAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		foreign := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "mine", Labels: map[string]string{
			discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: "somebody"}}, AddressType: discoveryv1.AddressTypeIPv4}
		w := start(t, foreign, service(func(s *corev1.Service) { s.Spec.Selector = nil }), pod(0, nil))
		defer w.Close()
		if all := w.slices(); len(all) != 1 || all[0].Name != "mine" || len(all[0].Endpoints) != 0 {
			t.Errorf("slices %+v", all)
		}
	})
}

// TestHints: which zones or nodes an endpoint is meant for, as trafficDistribution says.
func TestHints(t *testing.T) {
	for _, test := range []struct {
		name         string
		distribution *string
		zone, node   string
	}{
		{"none without a wish", nil, "", ""},
		{"its own zone", ptr.To(corev1.ServiceTrafficDistributionPreferClose), "a", ""},
		{"its own zone, by the new name", ptr.To(corev1.ServiceTrafficDistributionPreferSameZone), "a", ""},
		{"its own node, and the zone for those who do not know nodes", ptr.To(corev1.ServiceTrafficDistributionPreferSameNode), "a", "node-0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, service(func(s *corev1.Service) { s.Spec.TrafficDistribution = test.distribution }), pod(0, nil), pod(1, nil), pod(2, nil))
				defer w.Close()
				var zones, on []string
				if h := w.endpoints()["10.0.0.1"].Hints; h != nil {
					for _, z := range h.ForZones {
						zones = append(zones, z.Name)
					}
					for _, n := range h.ForNodes {
						on = append(on, n.Name)
					}
				}
				if strings.Join(zones, " ") != test.zone || strings.Join(on, " ") != test.node {
					t.Errorf("hints for zones %v and nodes %v, want %q and %q", zones, on, test.zone, test.node)
				}
			})
		})
	}
}

// TestHintsByCPUAppearWhenEveryZoneHasEnough: with the annotation Auto, endpoints are shared out by the zones' CPUs, and there are no hints while a zone would be overloaded.
func TestHintsByCPUAppearWhenEveryZoneHasEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, service(func(s *corev1.Service) { s.Annotations = map[string]string{corev1.AnnotationTopologyMode: "Auto"} }), pod(0, nil), pod(1, nil))
		defer w.Close()
		hinted := func() (n int) {
			for _, e := range w.endpoints() {
				if e.Hints != nil && len(e.Hints.ForZones) == 1 {
					n++
				}
			}
			return n
		}
		if n := hinted(); n != 0 {
			t.Errorf("%d of 2 endpoints have hints for three zones, want none", n)
		}
		for i := 2; i < 9; i++ {
			controllertest.Must(w.Client.CoreV1().Pods("ns").Create(ctx, pod(i, nil), metav1.CreateOptions{}))
		}
		w.After(time.Second)
		if n := hinted(); n != 9 {
			t.Errorf("%d of 9 endpoints have hints, want all", n)
		}
	})
}
