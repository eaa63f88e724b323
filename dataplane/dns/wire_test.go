// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead/fairlead/dataplane/dns/control"
	"github.com/fairlead/fairlead/dataplane/dns/feed"
	"github.com/fairlead/fairlead/dataplane/tables"
	"github.com/fairlead/fairlead/hack/await"
)

// serve runs a server over tb until the test ends and returns its port.
func serve(t testing.TB, tb *tables.Tables, change func(*Config)) int {
	t.Helper()
	cfg := Config{Directory: follow(t, tb), Domain: "cluster.local", Listen: []netip.Addr{addr("127.0.0.1")}, Port: freePort(t)}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, serving := make(chan error, 1), make(chan struct{})
	cfg.OnServing = func() { close(serving) }
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-serving:
	case err := <-done:
		done <- err
		t.Fatalf("the server ended: %v", err)
	}
	answering(t, cfg.Port)
	return cfg.Port
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// wide adds a headless service with n endpoints.
func wide(t testing.TB, tb *tables.Tables, n int) {
	t.Helper()
	w := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices)
	name := tables.Name{Namespace: "default", Name: "wide"}
	s := &tables.EndpointSlice{Name: name, Service: "wide", Ports: []tables.EndpointPort{{Name: "http", Protocol: tables.TCP, Port: 80}}}
	for i := range n {
		s.Endpoints = append(s.Endpoints, tables.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 245, byte(i >> 8), byte(i)}), Conditions: tables.Ready})
	}
	if _, _, err := tb.Services.Insert(w, &tables.Service{Name: name, Headless: true}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tb.EndpointSlices.Insert(w, s); err != nil {
		t.Fatal(err)
	}
	w.Commit()
}

func TestTruncationEDNSAndTCP(t *testing.T) {
	tb := testTables(t)
	wide(t, tb, 1000)
	server := fmt.Sprint("127.0.0.1:", serve(t, tb, nil))
	for _, tc := range []struct {
		about     string
		size      uint16 // EDNS0 buffer; 0: no EDNS0
		net       string
		most      int
		truncated bool
		answers   int // 0: fewer than 1000
	}{
		{"no EDNS0: at most 512 bytes", 0, "udp", 512, true, 0},
		{"a small EDNS0 buffer is respected", 700, "udp", 700, true, 0},
		{"a large EDNS0 buffer is cut to what does not fragment", 4096, "udp", 1232, true, 0},
		{"TCP gives all", 0, "tcp", dns.MaxMsgSize, false, 1000},
	} {
		t.Run(tc.about, func(t *testing.T) {
			m := new(dns.Msg).SetQuestion("wide.default.svc.cluster.local.", dns.TypeA)
			if tc.size > 0 {
				m.SetEdns0(tc.size, false)
			}
			r, _, err := (&dns.Client{Net: tc.net, UDPSize: 65535, Timeout: 3 * time.Second}).Exchange(m, server)
			if err != nil {
				t.Fatal(err)
			}
			r.Compress = true
			if r.Len() > tc.most || r.Truncated != tc.truncated || (tc.answers > 0 && len(r.Answer) != tc.answers) {
				t.Errorf("%d bytes, truncated %t, %d answers; want at most %d bytes, truncated %t, %d answers", r.Len(), r.Truncated, len(r.Answer), tc.most, tc.truncated, tc.answers)
			}
			if (r.IsEdns0() != nil) != (tc.size > 0) {
				t.Errorf("EDNS0 in the answer: %v, asked with size %d", r.IsEdns0(), tc.size)
			}
		})
	}
	m := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	m.SetEdns0(1232, false)
	m.IsEdns0().SetVersion(1)
	if r, _, err := (&dns.Client{Timeout: 3 * time.Second}).Exchange(m, server); err != nil || r.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS version 1: %v %v, want BADVERS (RFC 6891 section 6.1.3)", r, err)
	}
}

func TestZoneTransfer(t *testing.T) {
	tb := testTables(t)
	port := serve(t, tb, func(c *Config) {
		c.Corefile = ".:{{PORT}} {\n bind {{BIND}}\n transfer cluster.local {\n to *\n }\n fairlead {{DOMAIN}}\n}\n"
	})
	m := new(dns.Msg).SetAxfr("cluster.local.")
	envelopes, err := new(dns.Transfer).In(m, fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	soas := 0
	z := &Zone{Domain: "cluster.local.", TTL: 5, Directory: feed.Load(tb)}
	for e := range envelopes {
		if e.Error != nil {
			t.Fatal(e.Error)
		}
		for _, rr := range e.RR {
			if rr.Header().Rrtype == dns.TypeSOA {
				soas++
				continue
			}
			line := records([]dns.RR{rr})[0]
			have[line] = true
			found := false
			for _, same := range z.Lookup(rr.Header().Name, rr.Header().Rrtype).Answer {
				found = found || records([]dns.RR{same})[0] == line
			}
			if !found {
				t.Errorf("transferred, but not answered: %s", line)
			}
		}
	}
	if soas != 2 {
		t.Errorf("%d SOA records, want one at each end", soas)
	}
	for _, tc := range specification {
		if strings.HasPrefix(tc.about, "2.6") || tc.about == "2.5 external name of the cluster" {
			continue
		}
		for _, want := range tc.answer {
			if !have[want] {
				t.Errorf("%s: not transferred: %s", tc.about, want)
			}
		}
	}
	refused := serve2(t, tb)
	if r, err := new(dns.Transfer).In(m, fmt.Sprint("127.0.0.1:", refused)); err == nil {
		if e := <-r; e.Error == nil {
			t.Error("a server that is not configured for it transfers the zone")
		}
	}
}

// serve2 is a second server block in the running process: CoreDNS's configuration is process-wide, its instances are not.
func serve2(t testing.TB, tb *tables.Tables) int { return serve(t, tb, nil) }

// outside is an upstream that knows www.example.com and counts questions.
func outside(t testing.TB) (address string, asked *atomic.Int64) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked = new(atomic.Int64)
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		asked.Add(1)
		m := new(dns.Msg).SetReply(r)
		switch name := strings.ToLower(r.Question[0].Name); {
		case name == "www.example.com." && r.Question[0].Qtype == dns.TypeA:
			rr, _ := dns.NewRR("www.example.com. 300 IN A 192.0.2.80")
			m.Answer = []dns.RR{rr}
		case name == "www.example.com.":
		case name == "broken.example.com.":
			m.Rcode = dns.RcodeServerFailure
		default:
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m) // a lost answer shows as a failed test
	})}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc.LocalAddr().String(), asked
}

// TestStaleAnswersWhileUpstreamsAreAway stops the servers of the world: what the cache still has is given with a time to live of 0 (RFC 8767, section 4).
func TestStaleAnswersWhileUpstreamsAreAway(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		rr, _ := dns.NewRR("www.example.com. 1 IN A 192.0.2.80")
		m.Answer = []dns.RR{rr}
		_ = w.WriteMsg(m) // a lost answer shows as a failed test
	})}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	stop := sync.OnceFunc(func() { pc.Close(); <-done })
	t.Cleanup(stop)
	port := serve(t, testTables(t), func(c *Config) {
		c.Upstreams = []string{pc.LocalAddr().String()}
		c.Corefile = `.:{{PORT}} {
	bind {{BIND}}
	fairlead {{DOMAIN}} in-addr.arpa ip6.arpa
	cache 30 {
		success 100 30 0
		prefetch 10
		serve_stale 1h
	}
	forward . {{UPSTREAMS}}
}
`
	})
	if r := exchange(t, port, "www.example.com.", dns.TypeA); len(r.Answer) != 1 || r.Answer[0].Header().Ttl != 1 {
		t.Fatalf("answered %v", r)
	}
	stop()
	await.Nil(t, 30*time.Second, func() error {
		r := exchange(t, port, "www.example.com.", dns.TypeA)
		if len(r.Answer) != 1 {
			t.Fatalf("the cache's answer was not given: %v", r)
		}
		if ttl := r.Answer[0].Header().Ttl; ttl != 0 {
			return fmt.Errorf("time to live %d: not stale yet", ttl)
		}
		return nil
	})
}

// resolve does what a resolver with ndots:5 and a pod's search list does, and returns the answer and how many questions it took.
func resolve(t testing.TB, port int, from, ns, name string) (addrs []string, questions int) {
	t.Helper()
	c := &dns.Client{Timeout: 3 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}}
	for _, suffix := range []string{ns + ".svc.cluster.local.", "svc.cluster.local.", "cluster.local.", ""} {
		full := name + "." + suffix
		questions++
		r, _, err := c.Exchange(new(dns.Msg).SetQuestion(full, dns.TypeA), fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			t.Fatal(err)
		}
		if r.Rcode == dns.RcodeSuccess {
			for _, rr := range r.Answer {
				if a, ok := rr.(*dns.A); ok {
					addrs = append(addrs, a.A.String())
				}
			}
			return addrs, questions
		}
		if r.Rcode != dns.RcodeNameError {
			return nil, questions
		}
	}
	return nil, questions
}

func TestSearchAnswersInOneQuestion(t *testing.T) {
	tb := testTables(t)
	w := tb.DB.WriteTxn(tb.LocalPods, tb.Services)
	for _, p := range []*tables.LocalPod{
		{ID: "a", Namespace: "default", Name: "a", IPs: []netip.Addr{addr("127.0.0.11")}},
		{ID: "b", Namespace: "other", Name: "b", IPs: []netip.Addr{addr("127.0.0.12")}},
		{ID: "c", Namespace: "default", Name: "c", IPs: []netip.Addr{addr("127.0.0.13")}},
		{ID: "d", Namespace: "other", Name: "d", IPs: []netip.Addr{addr("127.0.0.13")}}, // the address changes hands
	} {
		if _, _, err := tb.LocalPods.Insert(w, p); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := tb.Services.Insert(w, &tables.Service{Name: tables.Name{Namespace: "other", Name: "api"}, ClusterIPs: []netip.Addr{addr("10.96.0.77")}}); err != nil {
		t.Fatal(err)
	}
	w.Commit()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 192.0.2.53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	upstream, _ := outside(t)
	port := serve(t, tb, func(c *Config) { c.Upstreams, c.ResolvConf = []string{upstream}, conf })
	saved := testutil.ToFloat64(searchSaved)
	for _, tc := range []struct {
		about, from, ns, name, want string
		questions                   int
	}{
		{"a pod and a name of the world", "127.0.0.11", "default", "www.example.com", "192.0.2.80", 1},
		{"a pod and a service of its namespace", "127.0.0.11", "default", "web", "10.96.0.20", 1},
		{"a pod and a service of another namespace", "127.0.0.11", "default", "api.other", "10.96.0.77", 1},
		{"a pod of another namespace than it asks in", "127.0.0.12", "default", "www.example.com", "192.0.2.80", 4},
		{"an address that two pods have", "127.0.0.13", "default", "www.example.com", "192.0.2.80", 4},
		{"an address that no pod has", "127.0.0.14", "default", "www.example.com", "192.0.2.80", 4},
		{"a name that does not exist", "127.0.0.11", "default", "none.example.com", "", 4},
		{"an upstream that fails: the resolver finds out itself", "127.0.0.11", "default", "broken.example.com", "", 4},
	} {
		addrs, questions := resolve(t, port, tc.from, tc.ns, tc.name)
		if strings.Join(addrs, " ") != tc.want || questions != tc.questions {
			t.Errorf("%s: %q in %d questions, want %q in %d", tc.about, addrs, questions, tc.want, tc.questions)
		}
	}
	if got := testutil.ToFloat64(searchSaved) - saved; got != 3+1 {
		t.Errorf("saved %v questions by the counter, want 4: three for the name of the world, one for the other namespace's service", got)
	}
}

// TestAutopath has CoreDNS's own plugin ask ours for the search list.
func TestAutopath(t *testing.T) {
	tb := testTables(t)
	w := tb.DB.WriteTxn(tb.LocalPods)
	if _, _, err := tb.LocalPods.Insert(w, &tables.LocalPod{ID: "a", Namespace: "default", Name: "a", IPs: []netip.Addr{addr("127.0.0.11")}}); err != nil {
		t.Fatal(err)
	}
	w.Commit()
	upstream, _ := outside(t)
	port := serve(t, tb, func(c *Config) {
		c.Upstreams = []string{upstream}
		c.Corefile = ".:{{PORT}} {\n bind {{BIND}}\n autopath @fairlead\n fairlead {{DOMAIN}} in-addr.arpa ip6.arpa\n forward . {{UPSTREAMS}}\n}\n"
	})
	for _, tc := range []struct {
		about, from, ns, name, want string
		questions                   int
	}{
		{"a pod and a name of the world", "127.0.0.11", "default", "www.example.com", "192.0.2.80", 1},
		{"a pod and a service of its namespace", "127.0.0.11", "default", "web", "10.96.0.20", 1},
		{"a pod that asks in another namespace", "127.0.0.11", "other", "www.example.com", "192.0.2.80", 4},
		{"an address that no pod has", "127.0.0.14", "default", "www.example.com", "192.0.2.80", 4},
		{"a name that does not exist", "127.0.0.11", "default", "none.example.com", "", 4},
	} {
		addrs, questions := resolve(t, port, tc.from, tc.ns, tc.name)
		if strings.Join(addrs, " ") != tc.want || questions != tc.questions {
			t.Errorf("%s: %q in %d questions, want %q in %d", tc.about, addrs, questions, tc.want, tc.questions)
		}
	}
}

// TestLameduckAnswersOn ends a server's context and asks on.
func TestLameduckAnswersOn(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cfg := Config{Directory: follow(t, testTables(t)), Domain: "cluster.local", Listen: []netip.Addr{addr("127.0.0.1")}, Port: freePort(t), Lameduck: 300 * time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	answering(t, cfg.Port)
	cancel()
	for range 20 {
		if r := exchange(t, cfg.Port, "web.default.svc.cluster.local.", dns.TypeA); len(r.Answer) != 1 {
			t.Fatalf("answered %v", r)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the server does not end")
	}
}

// TestCorefileOfTheManifest loads the Corefile that is installed with the Deployment, with its fixed ports moved.
func TestCorefileOfTheManifest(t *testing.T) {
	raw, err := os.ReadFile("manifests/kustomize/base/corefile.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cm corev1.ConfigMap
	if err := yaml.UnmarshalStrict(raw, &cm); err != nil {
		t.Fatal(err)
	}
	if cm.Namespace != ConfigMapNamespace || cm.Name != ConfigMapName {
		t.Errorf("ConfigMap %s/%s, which nobody reads", cm.Namespace, cm.Name)
	}
	text := cm.Data[ConfigMapKey]
	ready := freePort(t)
	for from, to := range map[string]string{"health :8080": "health 127.0.0.1:0", "ready :8181": fmt.Sprint("ready 127.0.0.1:", ready), "prometheus :9153": "prometheus 127.0.0.1:0", "errors\n": "errors\n bind {{BIND}}\n"} {
		if !strings.Contains(text, from) {
			t.Errorf("no %q in the Corefile", from)
		}
		text = strings.Replace(text, from, to, 1)
	}
	upstream, _ := outside(t)
	port := serve(t, testTables(t), func(c *Config) { c.Upstreams, c.Corefile = []string{upstream}, text })
	before := testutil.ToFloat64(fastAnswers)
	if r := exchange(t, port, "web.default.svc.cluster.local.", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("answered %v", r)
	}
	if testutil.ToFloat64(fastAnswers) == before {
		t.Error("the Corefile keeps the cluster's names from the fast path")
	}
	if r := exchange(t, port, "www.example.com.", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("answered %v", r)
	}
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", ready))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("not ready: %s", resp.Status)
	}
}

func TestReloadLosesNoQuestion(t *testing.T) {
	texts := make(chan string)
	port := serve(t, testTables(t), func(c *Config) { c.Corefiles = texts })
	stop, lost, sent := make(chan struct{}), make(chan error, 1), 0
	go func() {
		defer close(lost)
		c := &dns.Client{Timeout: 2 * time.Second}
		for {
			select {
			case <-stop:
				return
			default:
			}
			r, _, err := c.Exchange(new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA), fmt.Sprint("127.0.0.1:", port))
			sent++
			if err != nil || len(r.Answer) != 1 {
				lost <- fmt.Errorf("question %d: %v %v", sent, r, err)
				return
			}
		}
	}()
	text := ".:{{PORT}} {\n bind {{BIND}}\n template IN TXT reloaded.test {\n answer \"{{ .Name }} 5 IN TXT yes\"\n }\n fairlead {{DOMAIN}}\n}\n"
	loaded := testutil.ToFloat64(reloads.WithLabelValues("loaded"))
	failed := testutil.ToFloat64(reloads.WithLabelValues("failed"))
	for range 3 {
		texts <- text
		texts <- "" // taken only after the former was loaded
		texts <- "this is no Corefile {"
	}
	texts <- text
	deadline := time.Now().Add(20 * time.Second)
	for testutil.ToFloat64(reloads.WithLabelValues("loaded")) < loaded+7 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	close(stop)
	if err := <-lost; err != nil {
		t.Error(err)
	}
	if got := testutil.ToFloat64(reloads.WithLabelValues("failed")) - failed; got != 3 {
		t.Errorf("%v refused Corefiles, want 3", got)
	}
	if r := exchange(t, port, "reloaded.test.", dns.TypeTXT); len(r.Answer) != 1 {
		t.Errorf("the last Corefile is not in force: %v", r)
	}
	t.Logf("%d questions answered while the Corefile was loaded 7 times", sent)
}

// TestHostileClients sends what no resolver sends; afterwards the server must answer as before, within bounded memory.
func TestHostileClients(t *testing.T) {
	port := serve(t, testTables(t), nil)
	server := fmt.Sprint("127.0.0.1:", port)
	header := func(questions uint16) []byte {
		b := make([]byte, 12)
		b[0], b[2] = 0x42, 1
		binary.BigEndian.PutUint16(b[4:], questions)
		return b
	}
	label := func(n int) []byte { return append([]byte{byte(n)}, strings.Repeat("a", n)...) }
	long := header(1)
	for range 5 {
		long = append(long, label(63)...) // 320 bytes: over 255
	}
	long = append(long, 0, 0, 1, 0, 1)
	for _, tc := range []struct {
		about  string
		packet []byte
		rcode  int // -1: no answer
	}{
		{"shorter than a header", []byte{1, 2, 3}, -1},
		{"a header alone that promises a question", header(1), dns.RcodeServerFailure}, // by CoreDNS, before any plugin
		{"no question", header(0), dns.RcodeFormatError},
		{"two questions", header(2), dns.RcodeFormatError},
		{"a name that points at itself", append(header(1), 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		{"two names that point at each other", append(header(1), 0xc0, 14, 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		{"a label of a reserved kind", append(header(1), 0x80, 1, 0, 0, 1, 0, 1), dns.RcodeFormatError},
		{"a name of 320 bytes", long, dns.RcodeFormatError},
		{"an answer", func() []byte { b := header(1); b[2] = 0x81; return append(b, 0, 0, 1, 0, 1) }(), -1},
		{"an unknown opcode", func() []byte { b := header(1); b[2] = 0x79; return append(b, 0, 0, 1, 0, 1) }(), dns.RcodeNotImplemented},
	} {
		conn, err := net.Dial("udp", server)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(tc.packet); err != nil {
			t.Fatal(err)
		}
		wait := 3 * time.Second
		if tc.rcode < 0 {
			wait = 100 * time.Millisecond
		}
		_ = conn.SetReadDeadline(time.Now().Add(wait)) // a UDP socket has deadlines
		buf := make([]byte, 1500)
		n, err := conn.Read(buf)
		conn.Close()
		switch {
		case tc.rcode < 0 && err == nil:
			t.Errorf("%s: answered with %d bytes, want none", tc.about, n)
		case tc.rcode >= 0 && (err != nil || int(buf[3]&0xf) != tc.rcode):
			t.Errorf("%s: rcode %d, error %v; want %s", tc.about, buf[3]&0xf, err, dns.RcodeToString[tc.rcode])
		}
	}

	// Names of every length that the wire can carry.
	for n := 1; n <= 253; n++ {
		name := strings.Repeat("a.", n/2) + "b"
		if n%2 == 0 {
			name = strings.Repeat("a.", n/2-1) + "bb"
		}
		if r := exchange(t, port, name+".", dns.TypeA); len(name) != n || r.Rcode != dns.RcodeRefused {
			t.Fatalf("a foreign name of %d bytes (%d) with no upstream: %s, want REFUSED", n, len(name), dns.RcodeToString[r.Rcode])
		}
	}

	// A TCP message of 64 KiB of zeros, and clients that send a byte and wait.
	conn, err := net.Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 2+dns.MaxMsgSize)
	binary.BigEndian.PutUint16(big, dns.MaxMsgSize)
	if _, err := conn.Write(big); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second)) // a TCP socket has deadlines
	if reply, err := io.ReadAll(io.LimitReader(conn, 14)); err == nil && len(reply) == 14 && int(reply[5]&0xf) != dns.RcodeFormatError {
		t.Errorf("64 KiB of zeros: rcode %d, want FORMERR or the connection closed", reply[5]&0xf)
	}
	conn.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var slow []net.Conn
	for range 500 {
		c, err := net.Dial("tcp", server)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte{0xff}); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, c)
	}
	exchange(t, port, "web.default.svc.cluster.local.", dns.TypeA)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse); grown > 500*64<<10 {
		t.Errorf("500 slow clients hold %d bytes, more than 64 KiB each", grown)
	}
	for _, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(15 * time.Second)) // a TCP socket has deadlines
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a client that sends one byte is kept: %v", err)
		}
		c.Close()
	}
	if r := exchange(t, port, "web.default.svc.cluster.local.", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("after the hostile clients: %v", r)
	}
}

func TestVerifiedPods(t *testing.T) {
	tb := testTables(t)
	w := tb.DB.WriteTxn(tb.LocalPods, tb.EndpointSlices)
	if _, _, err := tb.LocalPods.Insert(w, &tables.LocalPod{ID: "x", Namespace: "default", IPs: []netip.Addr{addr("10.244.0.40")}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tb.EndpointSlices.Insert(w, &tables.EndpointSlice{Name: tables.Name{Namespace: "default", Name: "far"}, Service: "web", Endpoints: []tables.Endpoint{
		{Addr: addr("10.244.9.1"), Target: tables.ObjectRef{Kind: "Pod", Namespace: "default", Name: "far"}}}}); err != nil {
		t.Fatal(err)
	}
	w.Commit()
	z := &Zone{Domain: "cluster.local.", TTL: 5, Pods: PodsVerified, Directory: feed.Load(tb)}
	for name, rcode := range map[string]int{
		"10-244-0-40.default.pod.cluster.local.": dns.RcodeSuccess,   // of this node
		"10-244-0-40.other.pod.cluster.local.":   dns.RcodeNameError, // not of that namespace
		"10-244-9-1.default.pod.cluster.local.":  dns.RcodeSuccess,   // another node's, behind a service
		"10-244-0-99.default.pod.cluster.local.": dns.RcodeNameError, // nobody's
	} {
		if a := z.Lookup(name, dns.TypeA); a.Rcode != rcode {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[a.Rcode], dns.RcodeToString[rcode])
		}
	}
}

func TestControlSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), control.SocketName)
	port := serve(t, testTables(t), func(c *Config) { c.Socket = socket })
	exchange(t, port, "v4only.default.svc.cluster.local.", dns.TypeA)
	ctl := control.Client{Socket: socket}
	info, err := ctl.Info(t.Context())
	if err != nil || !info.Ready || len(info.Servers) != 1 || info.Servers[0] != "127.0.0.1:"+strconv.Itoa(port) {
		t.Errorf("info %+v %v", info, err)
	}
	top, err := ctl.Top(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	counted := false
	for _, c := range top {
		counted = counted || c.Name == "v4only" && c.Questions > 0
	}
	if !counted {
		t.Errorf("top %v does not count the service asked for", top)
	}
	steps, err := ctl.Trace(t.Context(), "store.default.svc.cluster.local", "A", "")
	if err != nil || !strings.Contains(strings.Join(steps, "\n"), "published 3 of 5 endpoints") {
		t.Errorf("trace %q %v, want the endpoints counted", steps, err)
	}
	if _, err := ctl.Trace(t.Context(), "x", "NOTYPE", ""); err == nil {
		t.Error("a record type that does not exist is taken")
	}
}

// FuzzWire sends packets as they are to a running server, which must go on answering.
func FuzzWire(f *testing.F) {
	m, _ := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeANY).Pack()
	f.Add(m)
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	port := serve(f, testTables(f), nil)
	conn, err := net.Dial("udp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close() })
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) > 4096 {
			t.Skip()
		}
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
		if r := exchange(t, port, "web.default.svc.cluster.local.", dns.TypeA); len(r.Answer) != 1 {
			t.Fatalf("after %x: %v", packet, r)
		}
	})
}

func TestTakenMetricsPortDoesNotCostTheNames(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := serve(t, testTables(t), func(c *Config) { c.Metrics = l.Addr().String() })
	if r := exchange(t, port, "web.default.svc.cluster.local.", dns.TypeA); len(r.Answer) != 1 {
		t.Errorf("with the metrics' port taken: %v", r)
	}
}
