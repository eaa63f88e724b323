// SPDX-License-Identifier: Apache-2.0

package servicealloc

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-base/metrics/testutil"
	clocktesting "k8s.io/utils/clock/testing"
)

// memory is a Ranges that conflicts as a store does: change runs outside the lock and is repeated when somebody else wrote.
type memory struct {
	mu      sync.Mutex
	ra      corev1.RangeAllocation
	version int
}

func (m *memory) Get(context.Context) (*corev1.RangeAllocation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ra.DeepCopy(), nil
}

func (m *memory) Update(ctx context.Context, change func(*corev1.RangeAllocation) error) error {
	for {
		m.mu.Lock()
		ra, version := m.ra.DeepCopy(), m.version
		m.mu.Unlock()
		if err := change(ra); err != nil {
			return err
		}
		m.mu.Lock()
		if m.version == version {
			m.ra, m.version = *ra, version+1
			m.mu.Unlock()
			return nil
		}
		m.mu.Unlock()
	}
}

func newAllocator(t *testing.T, client *fake.Clientset, ports Ranges, cidrs ...string) *Allocator {
	t.Helper()
	a, err := New(Config{CIDRs: cidrs, Addresses: client.NetworkingV1().IPAddresses(), Ports: ports, NodePorts: "30000-30099"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func service(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, Selector: map[string]string{"app": name},
		Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
	}}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func create(t *testing.T, a *Allocator, s *corev1.Service) {
	t.Helper()
	finish, err := a.Create(t.Context(), s, false)
	if err != nil {
		t.Fatalf("create %s: %v", s.Name, err)
	}
	finish(t.Context(), true)
}

func update(t *testing.T, a *Allocator, s, old *corev1.Service) {
	t.Helper()
	finish, err := a.Update(t.Context(), s, old, false)
	if err != nil {
		t.Fatalf("update %s: %v", s.Name, err)
	}
	finish(t.Context(), true)
}

func claimed(t *testing.T, client *fake.Clientset) []string {
	t.Helper()
	list, err := client.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range list.Items {
		out = append(out, a.Name)
	}
	return out
}

const (
	v4, v6       = corev1.IPv4Protocol, corev1.IPv6Protocol
	single       = corev1.IPFamilyPolicySingleStack
	prefer       = corev1.IPFamilyPolicyPreferDualStack
	require      = corev1.IPFamilyPolicyRequireDualStack
	cidr4, cidr6 = "10.96.0.0/24", "fd00:10:96::/112"
)

func TestFamiliesOfANewService(t *testing.T) {
	families := func(p *corev1.IPFamilyPolicy, f ...corev1.IPFamily) func(*corev1.ServiceSpec) {
		return func(s *corev1.ServiceSpec) { s.IPFamilyPolicy, s.IPFamilies = p, f }
	}
	for name, tc := range map[string]struct {
		cidrs  []string
		change func(*corev1.ServiceSpec)
		policy corev1.IPFamilyPolicy
		want   []corev1.IPFamily
		err    string
	}{
		"nothing said on a dual-stack cluster": {cidrs: []string{cidr4, cidr6}, policy: single, want: []corev1.IPFamily{v4}},
		"nothing said where IPv6 comes first":  {cidrs: []string{cidr6, cidr4}, policy: single, want: []corev1.IPFamily{v6}},
		"dual-stack preferred and there":       {cidrs: []string{cidr4, cidr6}, change: families(new(prefer)), policy: prefer, want: []corev1.IPFamily{v4, v6}},
		"dual-stack preferred and not there":   {cidrs: []string{cidr4}, change: families(new(prefer)), policy: prefer, want: []corev1.IPFamily{v4}},
		"dual-stack required and not there":    {cidrs: []string{cidr4}, change: families(new(require)), err: "not configured for dual-stack"},
		"IPv6 first of two": {cidrs: []string{cidr4, cidr6}, change: families(new(require), v6), policy: require, want: []corev1.IPFamily{v6,
			v4}},
		"two families and no policy":      {cidrs: []string{cidr4, cidr6}, change: families(nil, v6, v4), policy: require, want: []corev1.IPFamily{v6, v4}},
		"the other family alone":          {cidrs: []string{cidr4, cidr6}, change: families(nil, v6), policy: single, want: []corev1.IPFamily{v6}},
		"a family that the cluster lacks": {cidrs: []string{cidr4}, change: families(nil, v6), err: "not configured on this cluster"},
		"two families but a single stack": {cidrs: []string{cidr4, cidr6}, change: families(new(single), v4, v6), err: "when multiple ipFamilies"},
		"the same family twice":           {cidrs: []string{cidr4, cidr6}, change: families(new(require), v4, v4), err: "Duplicate value"},
		"an address names the family": {cidrs: []string{cidr4, cidr6}, change: func(s *corev1.ServiceSpec) { s.ClusterIP = "fd00:10:96::99" },
			policy: single, want: []corev1.IPFamily{v6}},
		"headless without selector": {cidrs: []string{cidr4}, change: func(s *corev1.ServiceSpec) { s.ClusterIP, s.Selector = "None", nil },
			policy: require, want: []corev1.IPFamily{v4, v6}},
		"headless with selector": {cidrs: []string{cidr4, cidr6}, change: func(s *corev1.ServiceSpec) { s.ClusterIP = "None" }, policy: single,
			want: []corev1.IPFamily{v4}},
		"an address of another family than one": {cidrs: []string{cidr4, cidr6}, change: func(s *corev1.ServiceSpec) {
			s.ClusterIP, s.IPFamilies = "10.96.0.9",
				[]corev1.IPFamily{v6}
		}, err: "expected an address of family IPv6"},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			s := service("a", tc.change)
			finish, err := newAllocator(t, client, &memory{}, tc.cidrs...).Create(t.Context(), s, false)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || !apierrors.IsInvalid(err) {
					t.Fatalf("error %v, want one with %q", err, tc.err)
				}
				if left := claimed(t, client); len(left) > 0 {
					t.Errorf("%v stay claimed", left)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			finish(t.Context(), true)
			if *s.Spec.IPFamilyPolicy != tc.policy || fmt.Sprint(s.Spec.IPFamilies) != fmt.Sprint(tc.want) {
				t.Errorf("got %v %v, want %v %v", *s.Spec.IPFamilyPolicy, s.Spec.IPFamilies, tc.policy, tc.want)
			}
			if s.Spec.ClusterIP == "None" {
				return
			}
			if len(s.Spec.ClusterIPs) != len(tc.want) || s.Spec.ClusterIP != s.Spec.ClusterIPs[0] {
				t.Fatalf("clusterIP %q, clusterIPs %q", s.Spec.ClusterIP, s.Spec.ClusterIPs)
			}
			for i, text := range s.Spec.ClusterIPs {
				if got := familyOf(netip.MustParseAddr(text)); got != tc.want[i] {
					t.Errorf("address %s is %s, want %s", text, got, tc.want[i])
				}
			}
		})
	}
}

func TestAnAddressIsGivenOnce(t *testing.T) {
	client := fake.NewClientset()
	a := newAllocator(t, client, &memory{}, cidr4)
	create(t, a, service("a", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.10" }))
	for name, ip := range map[string]string{
		"already given":         "10.96.0.10",
		"outside the range":     "10.97.0.1",
		"the network's own":     "10.96.0.0",
		"the broadcast address": "10.96.0.255",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.Create(t.Context(), service("b", func(s *corev1.ServiceSpec) { s.ClusterIP = ip }), false)
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.clusterIPs[0]") {
				t.Errorf("error %v, want Invalid for spec.clusterIPs[0]", err)
			}
		})
	}
}

func TestARangeIsUsedToItsLastAddressByTwoServersAtOnce(t *testing.T) {
	client := fake.NewClientset()
	ports := &memory{}
	servers := []*Allocator{newAllocator(t, client, ports, "10.96.0.0/27"), newAllocator(t, client, ports, "10.96.0.0/27")}
	const usable = 30 // 32 without network and broadcast
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	failed := 0
	for i := range usable + 5 {
		wg.Go(func() {
			s := service(fmt.Sprint("s", i), nil)
			finish, err := servers[i%2].Create(t.Context(), s, false)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
				return
			}
			finish(t.Context(), true)
			got[s.Spec.ClusterIP]++
		})
	}
	wg.Wait()
	if len(got) != usable || failed != 5 {
		t.Errorf("%d addresses given, %d refusals; want %d and 5", len(got), failed, usable)
	}
	for ip, n := range got {
		if n != 1 {
			t.Errorf("%s was given %d times", ip, n)
		}
	}
}

func TestTheLowerBandIsLeftToThoseWhoChoose(t *testing.T) {
	a := newAllocator(t, fake.NewClientset(), &memory{}, "10.96.0.0/16")
	for i := range 100 {
		s := service(fmt.Sprint("s", i), nil)
		create(t, a, s)
		// 65534 usable addresses: the band of 256 ends at 10.96.1.0.
		if ip := netip.MustParseAddr(s.Spec.ClusterIP); !netip.MustParseAddr("10.96.1.0").Less(ip) {
			t.Fatalf("%s is of the lower band", ip)
		}
	}
}

func TestMoreRangesAreUsedWhenReady(t *testing.T) {
	more := &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.200.0.0/24"}}}
	a := newAllocator(t, fake.NewClientset(), &memory{}, cidr4)
	a.cfg.MoreCIDRs = func() ([]*networkingv1.ServiceCIDR, error) { return []*networkingv1.ServiceCIDR{more}, nil }
	ask := func(name string) error {
		_, err := a.Create(t.Context(), service(name, func(s *corev1.ServiceSpec) { s.ClusterIP = "10.200.0.7" }), false)
		return err
	}
	if err := ask("a"); !apierrors.IsInvalid(err) {
		t.Errorf("before it is ready: %v, want Invalid", err)
	}
	more.Status.Conditions = []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue}}
	if err := ask("a"); err != nil {
		t.Errorf("once it is ready: %v", err)
	}
	more.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	if err := ask("b"); !apierrors.IsInvalid(err) {
		t.Errorf("while it is deleted: %v, want Invalid", err)
	}
}

func TestNodePorts(t *testing.T) {
	nodePort := func(ports ...corev1.ServicePort) func(*corev1.ServiceSpec) {
		return func(s *corev1.ServiceSpec) { s.Type, s.Ports = corev1.ServiceTypeNodePort, ports }
	}
	tcp, udp := corev1.ProtocolTCP, corev1.ProtocolUDP
	t.Run("one port number for both protocols of a service port", func(t *testing.T) {
		s := service("a", nodePort(corev1.ServicePort{Port: 53, Protocol: tcp}, corev1.ServicePort{Port: 53, Protocol: udp}, corev1.ServicePort{Port: 80,
			Protocol: tcp}))
		create(t, newAllocator(t, fake.NewClientset(), &memory{}, cidr4), s)
		p := s.Spec.Ports
		if p[0].NodePort != p[1].NodePort || p[0].NodePort == p[2].NodePort || p[0].NodePort < 30000 || p[0].NodePort > 30099 {
			t.Errorf("node ports %d %d %d", p[0].NodePort, p[1].NodePort, p[2].NodePort)
		}
	})
	t.Run("a chosen port is given once, whatever the protocol", func(t *testing.T) {
		a := newAllocator(t, fake.NewClientset(), &memory{}, cidr4)
		create(t, a, service("a", nodePort(corev1.ServicePort{Port: 53, Protocol: tcp, NodePort: 30053}, corev1.ServicePort{Port: 53, Protocol: udp,
			NodePort: 30053})))
		_, err := a.Create(t.Context(), service("b", nodePort(corev1.ServicePort{Port: 53, Protocol: udp, NodePort: 30053})), false)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.ports[0].nodePort") || !strings.Contains(err.Error(), "already allocated") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a port outside the range is refused with the range", func(t *testing.T) {
		client := fake.NewClientset()
		_, err := newAllocator(t, client, &memory{}, cidr4).Create(t.Context(), service("a", nodePort(corev1.ServicePort{Port: 80, Protocol: tcp, NodePort: 80})),
			false)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "30000-30099") {
			t.Errorf("error %v", err)
		}
		if left := claimed(t, client); len(left) > 0 {
			t.Errorf("addresses %v stay claimed", left)
		}
	})
	t.Run("all ports are given, then none", func(t *testing.T) {
		a := newAllocator(t, fake.NewClientset(), &memory{}, "10.96.0.0/16")
		seen := map[int32]bool{}
		for i := range 100 {
			s := service(fmt.Sprint("s", i), nodePort(corev1.ServicePort{Port: 80, Protocol: tcp}))
			create(t, a, s)
			seen[s.Spec.Ports[0].NodePort] = true
		}
		if len(seen) != 100 {
			t.Errorf("%d different ports, want 100", len(seen))
		}
		if _, err := a.Create(t.Context(), service("last", nodePort(corev1.ServicePort{Port: 80, Protocol: tcp})), false); !apierrors.IsInternalError(err) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a load balancer that wants none gets none but its health check", func(t *testing.T) {
		s := service("a", func(s *corev1.ServiceSpec) {
			s.Type, s.AllocateLoadBalancerNodePorts = corev1.ServiceTypeLoadBalancer, new(false)
			s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		})
		a := newAllocator(t, fake.NewClientset(), &memory{}, cidr4)
		create(t, a, s)
		if s.Spec.Ports[0].NodePort != 0 || s.Spec.HealthCheckNodePort == 0 {
			t.Errorf("node port %d, health check %d", s.Spec.Ports[0].NodePort, s.Spec.HealthCheckNodePort)
		}
		if n, _ := a.Taken(t.Context()); n != 1 {
			t.Errorf("%d ports taken, want 1", n)
		}
	})
}

func TestUpdates(t *testing.T) {
	client := fake.NewClientset()
	a := newAllocator(t, client, &memory{}, cidr4, cidr6)
	taken := func() int {
		n, err := a.Taken(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	s := service("a", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	create(t, a, s)
	ip, port := s.Spec.ClusterIP, s.Spec.Ports[0].NodePort

	replaced := service("a", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	update(t, a, replaced, s)
	if replaced.Spec.ClusterIP != ip || replaced.Spec.Ports[0].NodePort != port {
		t.Errorf("a replacement that leaves them out got address %s and port %d, had %s and %d", replaced.Spec.ClusterIP, replaced.Spec.Ports[0].NodePort, ip, port)
	}

	dual := replaced.DeepCopy()
	dual.Spec.IPFamilyPolicy = new(prefer)
	update(t, a, dual, replaced)
	if len(dual.Spec.ClusterIPs) != 2 || dual.Spec.ClusterIPs[0] != ip || len(claimed(t, client)) != 2 {
		t.Errorf("upgrade to dual-stack: addresses %v, claims %v", dual.Spec.ClusterIPs, claimed(t, client))
	}

	back := dual.DeepCopy()
	back.Spec.IPFamilyPolicy = new(single)
	update(t, a, back, dual)
	if len(back.Spec.ClusterIPs) != 1 || len(back.Spec.IPFamilies) != 1 || len(claimed(t, client)) != 1 {
		t.Errorf("back to a single stack: addresses %v, claims %v", back.Spec.ClusterIPs, claimed(t, client))
	}

	other := back.DeepCopy()
	other.Spec.Ports[0].NodePort = 30001
	if finish, err := a.Update(t.Context(), other, back, false); err != nil {
		t.Fatal(err)
	} else {
		finish(t.Context(), false) // refused by validation, say
	}
	if taken() != 1 {
		t.Errorf("%d ports taken after an update that failed, want 1", taken())
	}

	plain := back.DeepCopy()
	plain.Spec.Type = corev1.ServiceTypeClusterIP
	update(t, a, plain, back)
	if plain.Spec.Ports[0].NodePort != 0 || taken() != 0 {
		t.Errorf("as ClusterIP: node port %d, %d taken", plain.Spec.Ports[0].NodePort, taken())
	}

	external := plain.DeepCopy()
	external.Spec.Type, external.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.org"
	update(t, a, external, plain)
	if external.Spec.ClusterIP != "" || external.Spec.IPFamilies != nil || len(claimed(t, client)) != 0 {
		t.Errorf("as ExternalName: address %q, families %v, claims %v", external.Spec.ClusterIP, external.Spec.IPFamilies, claimed(t, client))
	}

	again := external.DeepCopy()
	again.Spec.Type, again.Spec.ExternalName = corev1.ServiceTypeClusterIP, ""
	update(t, a, again, external)
	if again.Spec.ClusterIP == "" || len(claimed(t, client)) != 1 {
		t.Errorf("as ClusterIP again: address %q", again.Spec.ClusterIP)
	}
	a.Release(t.Context(), again)
	if len(claimed(t, client)) != 0 {
		t.Errorf("deleted: claims %v", claimed(t, client))
	}
}

func TestADryRunShowsAndTakesNothing(t *testing.T) {
	client := fake.NewClientset()
	a := newAllocator(t, client, &memory{}, cidr4, cidr6)
	s := service("a", func(s *corev1.ServiceSpec) { s.Type, s.IPFamilyPolicy = corev1.ServiceTypeNodePort, new(require) })
	finish, err := a.Create(t.Context(), s, true)
	if err != nil {
		t.Fatal(err)
	}
	finish(t.Context(), true)
	if len(s.Spec.ClusterIPs) != 2 || s.Spec.Ports[0].NodePort == 0 {
		t.Errorf("shows addresses %v and port %d", s.Spec.ClusterIPs, s.Spec.Ports[0].NodePort)
	}
	if n, _ := a.Taken(t.Context()); n != 0 || len(claimed(t, client)) != 0 {
		t.Errorf("%d ports and addresses %v are taken", n, claimed(t, client))
	}
}

func TestRepair(t *testing.T) {
	client := fake.NewClientset()
	a := newAllocator(t, client, &memory{}, cidr4)
	clock := clocktesting.NewFakePassiveClock(time.Now())
	r := &Repairer{Allocator: a, Services: client.CoreV1(), Clock: clock}
	repair := func() {
		t.Helper()
		if err := r.Repair(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	taken := func() int { n, _ := a.Taken(t.Context()); return n }

	// A Service whose claims were lost (a restored backup) gets them at once.
	kept := service("kept", func(s *corev1.ServiceSpec) {
		s.Type, s.ClusterIP, s.ClusterIPs = corev1.ServiceTypeNodePort, "10.96.0.20", []string{"10.96.0.20"}
		s.Ports[0].NodePort = 30007
	})
	if _, err := client.CoreV1().Services("ns").Create(t.Context(), kept, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Claims without a Service (a crash before it was written) are returned, after the grace.
	leaked := service("leaked", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	create(t, a, leaked)
	claim, err := client.NetworkingV1().IPAddresses().Get(t.Context(), leaked.Spec.ClusterIP, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	claim.CreationTimestamp = metav1.NewTime(clock.Now()) // the fake client does not date objects
	if _, err := client.NetworkingV1().IPAddresses().Update(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	repair()
	if got := claimed(t, client); len(got) != 2 || taken() != 2 {
		t.Fatalf("after the first pass: addresses %v, %d ports; want two of each", got, taken())
	}
	clock.SetTime(clock.Now().Add(grace + time.Second))
	repair()
	if got := claimed(t, client); len(got) != 1 || got[0] != "10.96.0.20" || taken() != 1 {
		t.Errorf("after the grace: addresses %v, %d ports; want 10.96.0.20 and one", got, taken())
	}
}

func TestAChangedPortRangeKeepsThePortsInBoth(t *testing.T) {
	ports := &memory{}
	a := newAllocator(t, fake.NewClientset(), ports, cidr4)
	create(t, a, service("a", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort; s.Ports[0].NodePort = 30050 }))
	b, err := New(Config{CIDRs: []string{cidr4}, Addresses: fake.NewClientset().NetworkingV1().IPAddresses(), Ports: ports, NodePorts: "30040-30060"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Create(t.Context(), service("b", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort; s.Ports[0].NodePort = 30050 }), false)
	if !apierrors.IsInvalid(err) {
		t.Errorf("30050 is given again after the range changed: %v", err)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no range":                {},
		"no CIDR":                 {CIDRs: []string{"10.96.0.0"}},
		"two ranges of a family":  {CIDRs: []string{"10.96.0.0/16", "10.97.0.0/16"}},
		"ports upside down":       {CIDRs: []string{cidr4}, NodePorts: "32767-30000"},
		"ports beyond the last":   {CIDRs: []string{cidr4}, NodePorts: "30000-65536"},
		"ports that are no range": {CIDRs: []string{cidr4}, NodePorts: "30000"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(cfg); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestMetricsCountWhatWasHandedOut(t *testing.T) {
	a := newAllocator(t, fake.NewClientset(), &memory{}, "10.98.0.0/24")
	create(t, a, service("a", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }))
	create(t, a, service("b", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.98.0.2" }))
	if _, err := a.Create(t.Context(), service("c", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.98.0.2" }), false); err == nil {
		t.Fatal("one address was given twice")
	}
	for want, got := range map[string]func() (float64, error){
		"1 chosen here": func() (float64, error) {
			return testutil.GetCounterMetricValue(ipAllocations.WithLabelValues("10.98.0.0/24", dynamic))
		},
		"1 chosen there": func() (float64, error) {
			return testutil.GetCounterMetricValue(ipAllocations.WithLabelValues("10.98.0.0/24", static))
		},
		"1 refused": func() (float64, error) {
			return testutil.GetCounterMetricValue(ipErrors.WithLabelValues("10.98.0.0/24", static))
		},
	} {
		if n, err := got(); err != nil || n != 1 {
			t.Errorf("%s: %v (%v)", want, n, err)
		}
	}
}
