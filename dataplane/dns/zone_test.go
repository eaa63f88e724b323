// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
	"github.com/fairlead/fairlead/dataplane/dns/feed"
	"github.com/fairlead/fairlead/dataplane/tables"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// testTables hold one service of each kind.
func testTables(t testing.TB) *tables.Tables {
	t.Helper()
	tb, err := tables.New()
	if err != nil {
		t.Fatal(err)
	}
	txn := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices)
	http := tables.ServicePort{Name: "http", Protocol: tables.TCP, Port: 80}
	for _, svc := range []*tables.Service{
		{Name: tables.Name{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{addr("10.96.0.20"), addr("fd00:10:96::20")},
			Ports: []tables.ServicePort{http, {Protocol: tables.UDP, Port: 9}}},
		{Name: tables.Name{Namespace: "default", Name: "v4only"}, ClusterIPs: []netip.Addr{addr("10.96.0.21")}, Ports: []tables.ServicePort{http}},
		{Name: tables.Name{Namespace: "default", Name: "store"}, Headless: true, Ports: []tables.ServicePort{http}},
		{Name: tables.Name{Namespace: "default", Name: "empty"}, Headless: true, Ports: []tables.ServicePort{http}},
		{Name: tables.Name{Namespace: "default", Name: "early"}, Headless: true, PublishNotReady: true, Ports: []tables.ServicePort{http}},
		{Name: tables.Name{Namespace: "default", Name: "outside"}, Type: tables.ExternalName, ExternalName: "www.example.com"},
		{Name: tables.Name{Namespace: "default", Name: "inside"}, Type: tables.ExternalName, ExternalName: "web.default.svc.cluster.local"},
		{Name: tables.Name{Namespace: "default", Name: "loop"}, Type: tables.ExternalName, ExternalName: "loop.default.svc.cluster.local"},
	} {
		if _, _, err := tb.Services.Insert(txn, svc); err != nil {
			t.Fatal(err)
		}
	}
	port := []tables.EndpointPort{{Name: "http", Protocol: tables.TCP, Port: 8080}}
	ready := tables.Ready | tables.Serving
	for _, s := range []*tables.EndpointSlice{
		{Name: tables.Name{Namespace: "default", Name: "store-1"}, Service: "store", Ports: port, Endpoints: []tables.Endpoint{
			{Addr: addr("10.244.0.5"), Hostname: "store-0", Conditions: ready},
			{Addr: addr("10.244.0.6"), Conditions: ready},
			{Addr: addr("10.244.0.7"), Hostname: "store-2"},
		}},
		{Name: tables.Name{Namespace: "default", Name: "store-2"}, Service: "store", Ports: port, Endpoints: []tables.Endpoint{
			{Addr: addr("10.244.0.5"), Hostname: "store-0", Conditions: ready}, // also in store-1, as while slices are rearranged
		}},
		{Name: tables.Name{Namespace: "default", Name: "store-3"}, Service: "store", IPv6: true, Ports: port, Endpoints: []tables.Endpoint{
			{Addr: addr("fd00:10:244::5"), Hostname: "store-0", Conditions: ready},
		}},
		{Name: tables.Name{Namespace: "default", Name: "early-1"}, Service: "early", Ports: port, Endpoints: []tables.Endpoint{
			{Addr: addr("10.244.0.9"), Hostname: "e0"},
		}},
		{Name: tables.Name{Namespace: "default", Name: "web-1"}, Service: "web", Ports: port, Endpoints: []tables.Endpoint{
			{Addr: addr("10.244.0.30"), Conditions: ready},
		}},
	} {
		if _, _, err := tb.EndpointSlices.Insert(txn, s); err != nil {
			t.Fatal(err)
		}
	}
	txn.Commit()
	return tb
}

// The rows are the specification's, version 1.1.0; the number of the section stands before each group.
var specification = []struct {
	about, name string
	qtype       uint16
	rcode       int
	answer      []string // in zone file form without the time to live, sorted
	extra       []string
}{
	{"2.2 schema version", "dns-version.cluster.local.", dns.TypeTXT, 0, []string{`dns-version.cluster.local. TXT "1.1.0"`}, nil},
	{"2.2 schema version has no address", "dns-version.cluster.local.", dns.TypeA, 0, nil, nil},

	{"2.3.1 service address", "web.default.svc.cluster.local.", dns.TypeA, 0, []string{"web.default.svc.cluster.local. A 10.96.0.20"}, nil},
	{"2.3.1 service address, IPv6", "web.default.svc.cluster.local.", dns.TypeAAAA, 0, []string{"web.default.svc.cluster.local. AAAA fd00:10:96::20"}, nil},
	{"2.3.1 a service without that family is no data", "v4only.default.svc.cluster.local.", dns.TypeAAAA, 0, nil, nil},
	{"2.3.1 no such service", "none.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
	{"2.3.1 no such namespace", "web.none.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
	{"2.3.2 named port", "_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV, 0,
		[]string{"_http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local."},
		[]string{"web.default.svc.cluster.local. A 10.96.0.20", "web.default.svc.cluster.local. AAAA fd00:10:96::20"}},
	{"2.3.2 other protocol", "_http._udp.web.default.svc.cluster.local.", dns.TypeSRV, dns.RcodeNameError, nil, nil},
	{"2.3.2 an unnamed port has no record", "__udp.web.default.svc.cluster.local.", dns.TypeSRV, dns.RcodeNameError, nil, nil},
	{"2.3.2 between port and service there is an empty name", "_tcp.web.default.svc.cluster.local.", dns.TypeA, 0, nil, nil},
	{"2.3 no host names below a service with an address", "x.web.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},

	{"2.4.1 headless", "store.default.svc.cluster.local.", dns.TypeA, 0,
		[]string{"store.default.svc.cluster.local. A 10.244.0.5", "store.default.svc.cluster.local. A 10.244.0.6"}, nil},
	{"2.4.1 headless, IPv6", "store.default.svc.cluster.local.", dns.TypeAAAA, 0, []string{"store.default.svc.cluster.local. AAAA fd00:10:244::5"}, nil},
	{"2.4.1 headless without ready endpoints", "empty.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
	{"2.4.1 not ready, published", "early.default.svc.cluster.local.", dns.TypeA, 0, []string{"early.default.svc.cluster.local. A 10.244.0.9"}, nil},
	{"2.4.1 by host name", "store-0.store.default.svc.cluster.local.", dns.TypeA, 0, []string{"store-0.store.default.svc.cluster.local. A 10.244.0.5"}, nil},
	{"2.4.1 by given host name", "10-244-0-6.store.default.svc.cluster.local.", dns.TypeA, 0, []string{"10-244-0-6.store.default.svc.cluster.local. A 10.244.0.6"}, nil},
	{"2.4.1 host that is not ready", "store-2.store.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
	{"2.4.2 headless ports", "_http._tcp.store.default.svc.cluster.local.", dns.TypeSRV, 0,
		[]string{"_http._tcp.store.default.svc.cluster.local. SRV 0 100 8080 10-244-0-6.store.default.svc.cluster.local.",
			"_http._tcp.store.default.svc.cluster.local. SRV 0 100 8080 store-0.store.default.svc.cluster.local."},
		[]string{"10-244-0-6.store.default.svc.cluster.local. A 10.244.0.6", "store-0.store.default.svc.cluster.local. A 10.244.0.5",
			"store-0.store.default.svc.cluster.local. AAAA fd00:10:244::5"}},

	{"2.5 external name", "outside.default.svc.cluster.local.", dns.TypeCNAME, 0, []string{"outside.default.svc.cluster.local. CNAME www.example.com."}, nil},
	{"2.5 external name of the cluster", "inside.default.svc.cluster.local.", dns.TypeA, 0,
		[]string{"inside.default.svc.cluster.local. CNAME web.default.svc.cluster.local.", "web.default.svc.cluster.local. A 10.96.0.20"}, nil},
	{"2.5 external name of itself", "loop.default.svc.cluster.local.", dns.TypeA, dns.RcodeServerFailure, nil, nil},

	{"2.6 pod", "10-244-0-5.default.pod.cluster.local.", dns.TypeA, 0, []string{"10-244-0-5.default.pod.cluster.local. A 10.244.0.5"}, nil},
	{"2.6 pod, IPv6", "fd00-10-244--5.default.pod.cluster.local.", dns.TypeAAAA, 0, []string{"fd00-10-244--5.default.pod.cluster.local. AAAA fd00:10:244::5"}, nil},
	{"2.6 no address", "10-244-0.default.pod.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},

	{"empty name: svc", "svc.cluster.local.", dns.TypeA, 0, nil, nil},
	{"empty name: namespace", "default.svc.cluster.local.", dns.TypeA, 0, nil, nil},
	{"empty name: no namespace", "none.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
	{"empty name: headless without endpoints has none below", "_tcp.empty.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
	{"apex", "cluster.local.", dns.TypeA, 0, nil, nil},
	{"outside svc and pod", "web.default.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
}

func TestSpecification(t *testing.T) {
	z := &Zone{Domain: "cluster.local.", TTL: 5, Pods: PodsInsecure, Directory: feed.Load(testTables(t))}
	for _, tc := range specification {
		t.Run(tc.about, func(t *testing.T) {
			a := z.Lookup(tc.name, tc.qtype)
			if a.Rcode != tc.rcode {
				t.Fatalf("%s: %s, want %s", tc.name, dns.RcodeToString[a.Rcode], dns.RcodeToString[tc.rcode])
			}
			if a.Rcode != dns.RcodeServerFailure && !slices.Equal(records(a.Answer), tc.answer) {
				t.Errorf("answer %q, want %q", records(a.Answer), tc.answer)
			}
			if !slices.Equal(records(a.Extra), tc.extra) {
				t.Errorf("additional %q, want %q", records(a.Extra), tc.extra)
			}
		})
	}
}

func TestReverse(t *testing.T) {
	z := &Zone{Domain: "cluster.local.", TTL: 5, Directory: feed.Load(testTables(t))}
	for about, tc := range map[string]struct {
		addr, want string
	}{
		"2.3.3 service":                      {"10.96.0.20", "web.default.svc.cluster.local."},
		"2.3.3 service, IPv6":                {"fd00:10:96::20", "web.default.svc.cluster.local."},
		"2.4.3 headless endpoint":            {"10.244.0.5", "store-0.store.default.svc.cluster.local."},
		"2.4.3 without host name":            {"10.244.0.6", "10-244-0-6.store.default.svc.cluster.local."},
		"not ready":                          {"10.244.0.7", ""},
		"endpoint of a service with address": {"10.244.0.30", ""},
		"nobody's":                           {"192.0.2.1", ""},
	} {
		a, ok := z.Reverse("x.", addr(tc.addr), dns.TypePTR)
		got := ""
		for _, rr := range a.Answer {
			got += rr.(*dns.PTR).Ptr
		}
		if got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: %s is %q, want %q", about, tc.addr, got, tc.want)
		}
	}
}

// records prints RRs without their time to live, sorted.
func records(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		f := strings.Fields(rr.String())
		out = append(out, strings.Join(append([]string{f[0]}, f[3:]...), " "))
	}
	slices.Sort(out)
	return out
}

// follow returns a directory that follows tb until the test ends, as early as the tables exist.
func follow(t testing.TB, tb *tables.Tables) *directory.Directory {
	t.Helper()
	d := directory.New()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- feed.Follow(ctx, tb, true, func(b *directory.Batch) error { d.Apply(b); return nil }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

// reached waits until d is what tb was changed to: the tables' rows arrive within moments.
func reached(t testing.TB, d *directory.Directory, what string, yes func(directory.View) bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		v := d.Read()
		ok := yes(v)
		v.Done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the directory does not reach: %s", what)
		}
	}
}

func TestServerOnTheWire(t *testing.T) {
	tb := testTables(t)
	wtxn := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices)
	syncServices := tb.Services.RegisterInitializer(wtxn, "test")
	syncSlices := tb.EndpointSlices.RegisterInitializer(wtxn, "test")
	wtxn.Commit()

	port := freePort(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	dir := follow(t, tb)
	go func() {
		done <- Run(ctx, Config{Directory: dir, Domain: "cluster.local", Listen: []netip.Addr{addr("127.0.0.1")}, Port: port})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	server := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	ask := func(network, name string, qtype uint16) (*dns.Msg, error) {
		m := new(dns.Msg).SetQuestion(name, qtype)
		r, _, err := (&dns.Client{Net: network, Timeout: time.Second}).Exchange(m, server)
		return r, err
	}
	deadline := time.Now().Add(10 * time.Second)
	r, err := ask("udp", "web.default.svc.cluster.local.", dns.TypeA)
	for err != nil && time.Now().Before(deadline) {
		r, err = ask("udp", "web.default.svc.cluster.local.", dns.TypeA)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.Rcode != dns.RcodeServerFailure {
		t.Errorf("before the tables are complete: %s, want SERVFAIL", dns.RcodeToString[r.Rcode])
	}
	wtxn = tb.DB.WriteTxn(tb.Services, tb.EndpointSlices)
	syncServices(wtxn)
	syncSlices(wtxn)
	wtxn.Commit()
	reached(t, dir, "complete", directory.View.Complete)

	for _, network := range []string{"udp", "tcp"} {
		r, err := ask(network, "Web.deFault.svc.cluster.local.", dns.TypeA)
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"Web.deFault.svc.cluster.local. A 10.96.0.20"}; !slices.Equal(records(r.Answer), want) || !r.Authoritative {
			t.Errorf("%s: answer %q authoritative %t, want %q in the asker's case", network, records(r.Answer), r.Authoritative, want)
		}
		r, err = ask(network, "none.default.svc.cluster.local.", dns.TypeA)
		if err != nil {
			t.Fatal(err)
		}
		if r.Rcode != dns.RcodeNameError || len(r.Ns) != 1 || r.Ns[0].Header().Rrtype != dns.TypeSOA {
			t.Errorf("%s: absent name: %s with authority %v, want NXDOMAIN with the SOA", network, dns.RcodeToString[r.Rcode], r.Ns)
		}
		r, err = ask(network, "20.0.96.10.in-addr.arpa.", dns.TypePTR)
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"20.0.96.10.in-addr.arpa. PTR web.default.svc.cluster.local."}; !slices.Equal(records(r.Answer), want) {
			t.Errorf("%s: reverse %q, want %q", network, records(r.Answer), want)
		}
	}

	// What the directory says changes with the next question.
	wtxn = tb.DB.WriteTxn(tb.Services)
	tb.Services.Insert(wtxn, &tables.Service{Name: tables.Name{Namespace: "default", Name: "none"}, ClusterIPs: []netip.Addr{addr("10.96.0.99")}})
	wtxn.Commit()
	reached(t, dir, "service none", func(v directory.View) bool {
		return v.Service(directory.Name{Namespace: "default", Name: "none"}) != nil
	})
	if r, err = ask("udp", "none.default.svc.cluster.local.", dns.TypeA); err != nil || len(r.Answer) != 1 {
		t.Errorf("a service made after its name was asked for is not found: %v %v", r, err)
	}
}

func FuzzLookup(f *testing.F) {
	for _, tc := range specification {
		f.Add(tc.name, tc.qtype)
	}
	z := &Zone{Domain: "cluster.local.", TTL: 5, Pods: PodsInsecure, Directory: feed.Load(testTables(f))}
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		name = strings.ToLower(dns.Fqdn(name))
		if _, ok := dns.IsDomainName(name); !ok || !dns.IsSubDomain(z.Domain, name) {
			t.Skip()
		}
		a := z.Lookup(name, qtype)
		m := new(dns.Msg).SetQuestion(name, qtype)
		m.Answer, m.Extra = a.Answer, a.Extra
		if _, err := m.Pack(); err != nil {
			t.Errorf("%q: the answer cannot be packed: %v", name, err)
		}
	})
}
