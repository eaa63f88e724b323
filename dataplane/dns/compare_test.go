// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/coredns/caddy"
	_ "github.com/coredns/coredns/plugin/kubernetes" // only here: the comparison's other side
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/dataplane/dns/dnstest"
	"github.com/fairlead/fairlead/dataplane/dns/feed"
)

// comparedObjects are the API objects that testTables are the rows of, so far as the two plugins are asked about them.
func comparedObjects() *dnstest.Objects {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	http := corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}
	cluster := func(name string, ips ...string) corev1.Service {
		return corev1.Service{ObjectMeta: meta(name), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ips[0], ClusterIPs: ips, Ports: []corev1.ServicePort{http}}}
	}
	external := func(name, target string) corev1.Service {
		return corev1.Service{ObjectMeta: meta(name), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: target}}
	}
	web := cluster("web", "10.96.0.20", "fd00:10:96::20")
	web.Spec.Ports = append(web.Spec.Ports, corev1.ServicePort{Protocol: corev1.ProtocolUDP, Port: 9})
	early := cluster("early", "None")
	early.Spec.PublishNotReadyAddresses = true
	slice := func(name, svc string, family discoveryv1.AddressType, eps ...discoveryv1.Endpoint) discoveryv1.EndpointSlice {
		m := meta(name)
		m.Labels = map[string]string{discoveryv1.LabelServiceName: svc}
		return discoveryv1.EndpointSlice{ObjectMeta: m, AddressType: family, Endpoints: eps,
			Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](8080)}}}
	}
	ep := func(ready bool, host, addr string) discoveryv1.Endpoint {
		e := discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
		if host != "" {
			e.Hostname = &host
		}
		return e
	}
	v4, v6 := discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6
	earlySlice := slice("early-1", "early", v4, ep(true, "e0", "10.244.0.9")) // the endpoint slice controller says ready for such Services
	return &dnstest.Objects{
		Namespaces: []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "default"}}},
		Services: []corev1.Service{web, cluster("v4only", "10.96.0.21"), cluster("store", "None"), cluster("empty", "None"), early,
			external("outside", "www.example.com"), external("inside", "web.default.svc.cluster.local")},
		Slices: []discoveryv1.EndpointSlice{
			slice("store-1", "store", v4, ep(true, "store-0", "10.244.0.5"), ep(true, "", "10.244.0.6"), ep(false, "store-2", "10.244.0.7")),
			slice("store-3", "store", v6, ep(true, "store-0", "fd00:10:244::5")),
			earlySlice,
			slice("web-1", "web", v4, ep(true, "", "10.244.0.30")),
		},
	}
}

// differences are the questions that the two plugins answer differently, with what the specification (or the RFC it rests on) says.
var differences = map[string]string{
	"2.2 schema version has no address":                     "RFC 2308 section 2.2: a name that has a TXT record exists, so a question for another type is NODATA, not NXDOMAIN",
	"2.3.2 between port and service there is an empty name": "RFC 8020: the name above an existing SRV name exists",
	"2.3.2 named port":                                      "specification 2.3.2 leaves weights open; CoreDNS divides 100 among all targets and gives one record per address family, ours one per target",
	"2.4.2 headless ports":                                  "specification 2.4.2 leaves weights open; CoreDNS divides 100 among all targets and gives one record per address family, ours one per target",
}

// bothServers runs ours and CoreDNS with its own plugin, fed with the same objects, until the test ends, and returns their ports.
func bothServers(t *testing.T) (ours, theirs int) {
	t.Helper()
	objects := comparedObjects()
	api := objects.Serve()
	t.Cleanup(api.Close)
	tb, err := objects.Tables()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ours, theirs = freePort(t), freePort(t)
	go func() {
		done <- Run(ctx, Config{Directory: feed.Load(tb), Domain: "cluster.local", Listen: []netip.Addr{addr("127.0.0.1")}, Port: ours})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	answering(t, ours)
	other, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", ServerTypeName: "dns", Contents: []byte(".:" + strconv.Itoa(theirs) + ` {
		bind 127.0.0.1
		bufsize 1232
		kubernetes cluster.local in-addr.arpa ip6.arpa {
			endpoint ` + api.URL + `
			pods insecure
		}
	}`)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		other.ShutdownCallbacks()
		if err := other.Stop(); err != nil {
			t.Error(err)
		}
	})
	answering(t, theirs)
	return ours, theirs
}

func TestAgainstCoreDNSKubernetes(t *testing.T) {
	ours, theirs := bothServers(t)
	for _, tc := range specification {
		if tc.about == "2.5 external name of itself" {
			continue // not among the objects: CoreDNS's plugin has no bound of its own
		}
		t.Run(tc.about, func(t *testing.T) {
			our, their := exchange(t, ours, tc.name, tc.qtype), exchange(t, theirs, tc.name, tc.qtype)
			same := our.Rcode == their.Rcode && slices.Equal(records(our.Answer), records(their.Answer)) && slices.Equal(slices.Compact(records(our.Extra)), slices.Compact(records(their.Extra)))
			why, listed := differences[tc.about]
			if !same && !listed {
				t.Errorf("%s %s:\nours   %s %q %q\ntheirs %s %q %q", tc.name, dns.TypeToString[tc.qtype],
					dns.RcodeToString[our.Rcode], records(our.Answer), records(our.Extra), dns.RcodeToString[their.Rcode], records(their.Answer), records(their.Extra))
			}
			if same && listed {
				t.Errorf("listed as a difference (%s), but the answers are the same: take it off the list", why)
			}
		})
	}
	for _, ip := range []string{"10.96.0.20", "fd00:10:96::20", "10.244.0.5", "10.244.0.6", "fd00:10:244::5"} {
		name, err := dns.ReverseAddr(ip)
		if err != nil {
			t.Fatal(err)
		}
		our, their := exchange(t, ours, name, dns.TypePTR), exchange(t, theirs, name, dns.TypePTR)
		if !slices.Equal(records(our.Answer), records(their.Answer)) {
			t.Errorf("reverse of %s: ours %q, theirs %q", ip, records(our.Answer), records(their.Answer))
		}
	}
}

func exchange(t testing.TB, port int, name string, qtype uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	r, _, err := (&dns.Client{Timeout: 3 * time.Second}).Exchange(m, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[qtype], err)
	}
	return r
}

// answering waits until the server at port answers for a service.
func answering(t testing.TB, port int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		m := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
		r, _, err := (&dns.Client{Timeout: time.Second}).Exchange(m, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil && len(r.Answer) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("port %d does not answer: %v %v", port, r, err)
		}
	}
}
