// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// twoPaths are two servers of one directory and one upstream: one with the fast path, one whose Corefile switches it off (the plugin nsid, which nobody here asks).
type twoPaths struct {
	fast, slow net.Conn
}

// They are asked from an address, that of a pod of namespace default being 127.0.0.11.
func newTwoPaths(t testing.TB, from string) twoPaths {
	t.Helper()
	tb := testTables(t)
	wide(t, tb, 25)
	w := tb.DB.WriteTxn(tb.LocalPods, tb.Services)
	for _, p := range []*tables.LocalPod{
		{ID: "a", Namespace: "default", Name: "a", IPs: []netip.Addr{addr("127.0.0.11")}},
	} {
		if _, _, err := tb.LocalPods.Insert(w, p); err != nil {
			t.Fatal(err)
		}
	}
	w.Commit()
	upstream, _ := outside(t)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 192.0.2.53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := follow(t, tb)
	reached(t, dir, "a pod", func(v directory.View) bool { return v.Complete() && len(v.PodsAt(addr("127.0.0.11"))) > 0 })
	text := ".:{{PORT}} {\n bind {{BIND}}\n errors\n bufsize 1232\n prometheus 127.0.0.1:0\n search {{DOMAIN}} {{RESOLV_CONF}}\n fairlead {{DOMAIN}} in-addr.arpa ip6.arpa\n" +
		" cache 30 {\n disable success cluster.local\n disable denial cluster.local\n }\n forward . {{UPSTREAMS}}\n loadbalance\n EXTRA\n}\n"
	start := func(extra string) net.Conn {
		port := serve(t, tb, func(c *Config) {
			c.Directory, c.Upstreams, c.ResolvConf, c.Corefile = dir, []string{upstream}, conf, strings.Replace(text, "EXTRA", extra, 1)
		})
		conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	return twoPaths{fast: start(""), slow: start("nsid here")}
}

// ask sends a packet as it is and returns the answer, nil when there is none for a moment.
func ask(t testing.TB, conn net.Conn, packet []byte, patience time.Duration) []byte {
	t.Helper()
	if _, err := conn.Write(packet); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience)) // a UDP socket has deadlines
	buf := make([]byte, 65535)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil
		}
		if n >= 2 && bytes.Equal(buf[:2], packet[:2]) { // not a late answer to an earlier packet
			return buf[:n]
		}
	}
}

// inOrder returns an answer with the data of each run of addresses sorted, and the answer's times to live apart.
func inOrder(t testing.TB, wire []byte) (sorted []byte, ttls []uint32) {
	t.Helper()
	r := dissect(slices.Clone(wire))
	if r == nil {
		return wire, nil
	}
	for _, run := range r.runs {
		var data [][]byte
		for _, at := range run.at {
			data = append(data, slices.Clone(r.wire[at:at+run.size]))
		}
		slices.SortFunc(data, bytes.Compare)
		for i, at := range run.at {
			copy(r.wire[at:], data[i])
		}
	}
	for _, at := range r.ttls {
		ttls = append(ttls, binary.BigEndian.Uint32(r.wire[at:]))
		binary.BigEndian.PutUint32(r.wire[at:], 0)
	}
	return r.wire, ttls
}

// same puts one packet to both servers and fails the test when they do not answer alike, byte for byte but for the order of addresses. Times to live of names outside the
// cluster may differ by the seconds that passed.
func (p twoPaths) same(t testing.TB, packet []byte) (answer []byte) {
	t.Helper()
	patience := 3 * time.Second
	if len(packet) < headerSize || packet[2]&bitQR != 0 { // no question: never answered
		patience = 50 * time.Millisecond
	}
	slow := ask(t, p.slow, packet, patience)
	fast := ask(t, p.fast, packet, patience)
	a, attls := inOrder(t, fast)
	b, bttls := inOrder(t, slow)
	if !bytes.Equal(a, b) && !sameRecords(a, b) {
		t.Errorf("asked %x\nfast %x\nslow %x", packet, a, b)
	}
	for i := range min(len(attls), len(bttls)) {
		if d := int64(attls[i]) - int64(bttls[i]); d > 2 || d < -2 {
			t.Errorf("asked %x: times to live %v and %v", packet, attls, bttls)
		}
	}
	return fast
}

// sameRecords compares answers to questions that both servers leave to CoreDNS, which shuffles records of several types.
func sameRecords(a, b []byte) bool {
	var x, y dns.Msg
	if x.Unpack(a) != nil || y.Unpack(b) != nil || len(x.Question) != 1 {
		return false
	}
	switch x.Question[0].Qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypePTR:
		return false
	}
	return x.MsgHdr == y.MsgHdr && slices.Equal(records(x.Answer), records(y.Answer)) && slices.Equal(records(x.Ns), records(y.Ns)) && slices.Equal(records(x.Extra), records(y.Extra))
}

// randomQuestion makes a question about names that exist, nearly exist, or do not.
func randomQuestion(r *rand.Rand) []byte {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	name := pick("web", "v4only", "store", "empty", "early", "outside", "inside", "loop", "wide", "none", "") + "." + pick("default", "other", "default") + pick(".svc", ".pod", ".svc", "") + ".cluster.local."
	switch r.IntN(12) {
	case 0:
		name = pick("www.example.com.", "none.example.com.", "www.example.com.default.svc.cluster.local.", "x.www.example.com.", "www.example.com.other.svc.cluster.local.")
	case 1:
		name = pick("20.0.96.10", "5.0.244.10", "6.0.244.10", "1.2.0.192", "x", "300.0.0.1") + ".in-addr.arpa."
	case 2:
		name = pick("10-244-0-5", "fd00--1", "10-244-0", "store-0", "_http._tcp", "_tcp", "a.b.c") + "." + name
	case 3:
		name = pick("cluster.local.", "dns-version.cluster.local.", "ns.dns.cluster.local.", "dns.cluster.local.", "svc.cluster.local.", ".", "com.")
	}
	name = strings.ReplaceAll(strings.TrimLeft(name, "."), "..", ".")
	if name == "" {
		name = "."
	}
	if r.IntN(4) == 0 && !strings.HasSuffix(name, "arpa.") { // CoreDNS's cache, before our plugin, gives reverse names back in lower case
		b := []byte(name)
		for i := range b {
			if r.IntN(2) == 0 && b[i] >= 'a' && b[i] <= 'z' {
				b[i] -= 'a' - 'A'
			}
		}
		name = string(b)
	}
	types := []uint16{dns.TypeA, dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeAAAA, dns.TypePTR, dns.TypeSRV, dns.TypeTXT, dns.TypeANY, dns.TypeHTTPS, dns.TypeCNAME}
	m := new(dns.Msg).SetQuestion(name, types[r.IntN(len(types))])
	m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = r.IntN(2) == 0, r.IntN(8) == 0, r.IntN(8) == 0
	if r.IntN(2) == 0 {
		m.SetEdns0([]uint16{0, 400, 512, 700, 1232, 4096, 65535}[r.IntN(7)], r.IntN(2) == 0)
		switch r.IntN(10) {
		case 0:
			m.IsEdns0().SetVersion(1)
		case 1:
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
		}
	}
	packet, err := m.Pack()
	if err != nil {
		panic(fmt.Sprintf("%s: %v", name, err)) // the names above are names
	}
	if r.IntN(10) == 0 && len(packet) > 12 {
		packet[2+r.IntN(len(packet)-2)] ^= 1 << r.IntN(8)
	}
	return packet
}

// TestFastPathAnswersAsCoreDNS is the property that makes the fast path one: for random questions, plain and odd, its answers are those of the plugin chain.
func TestFastPathAnswersAsCoreDNS(t *testing.T) {
	p := newTwoPaths(t, "127.0.0.11")
	before := testutil.ToFloat64(fastAnswers)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		if p.same(t, randomQuestion(r)); t.Failed() {
			return
		}
	}
	if n := testutil.ToFloat64(fastAnswers) - before; n < 700 {
		t.Errorf("%v questions took the fast path: too few to have shown anything", n)
	}
}

// TestFastPathTakesTheSpecification puts the specification's questions of the types that the fast path knows to both.
func TestFastPathTakesTheSpecification(t *testing.T) {
	p := newTwoPaths(t, "127.0.0.12") // of no pod: no search list is walked
	for _, tc := range specification {
		m := new(dns.Msg).SetQuestion(tc.name, tc.qtype)
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		before := testutil.ToFloat64(fastAnswers)
		got := p.same(t, packet)
		if got == nil || int(got[3]&0xf) != tc.rcode {
			t.Errorf("%s: answered %x, want rcode %d", tc.about, got, tc.rcode)
		}
		simple := (tc.qtype == dns.TypeA || tc.qtype == dns.TypeAAAA) && len(tc.extra) == 0 && !strings.HasPrefix(tc.about, "2.5")
		if took := testutil.ToFloat64(fastAnswers) > before; took != simple {
			t.Errorf("%s: took the fast path: %t, want %t", tc.about, took, simple)
		}
	}
}

func TestFastPathGivesOutsideAnswersAgainForAMoment(t *testing.T) {
	p := newTwoPaths(t, "127.0.0.11")
	for _, name := range []string{"www.example.com.", "www.example.com.default.svc.cluster.local."} {
		packet, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		p.same(t, packet)
		before, saved := testutil.ToFloat64(fastAnswers), testutil.ToFloat64(searchSaved)
		p.same(t, packet)
		if n := testutil.ToFloat64(fastAnswers) - before; n != 1 {
			t.Errorf("%s, asked again: %v fast answers, want 1", name, n)
		}
		if n := testutil.ToFloat64(searchSaved) - saved; strings.Contains(name, "cluster") && n != 6 {
			t.Errorf("%s: %v questions saved by both servers, want 3 each", name, n)
		}
	}
}

// TestAnswersToOddQuestionsAreNotGivenToPlainOnes asks for a name of the world in an odd way first: a plain question must be answered as if nobody had.
func TestAnswersToOddQuestionsAreNotGivenToPlainOnes(t *testing.T) {
	p := newTwoPaths(t, "127.0.0.11")
	pack := func(change func(m *dns.Msg)) []byte {
		t.Helper()
		m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
		m.SetEdns0(1232, false)
		change(m)
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packet
	}
	for about, change := range map[string]func(m *dns.Msg){
		"an EDNS0 flag without a meaning": func(m *dns.Msg) { m.IsEdns0().Hdr.Ttl |= 0x4000 },
		"an extended RCODE":               func(m *dns.Msg) { m.IsEdns0().Hdr.Ttl |= 0x05000000 },
		"authoritative":                   func(m *dns.Msg) { m.Authoritative = true },
		"recursion available":             func(m *dns.Msg) { m.RecursionAvailable = true },
		"an option":                       option(&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}),
		"EDNS0 not of the root":           func(m *dns.Msg) { m.Extra[0].Header().Name = "x." },
	} {
		p.same(t, pack(change))
		if p.same(t, pack(func(*dns.Msg) {})); t.Failed() {
			t.Fatalf("after a question with %s", about)
		}
	}
}

func TestFastPathCountsAsCoreDNS(t *testing.T) {
	p := newTwoPaths(t, "127.0.0.11")
	for _, q := range []struct {
		name  string
		qtype uint16
	}{{"web.default.svc.cluster.local.", dns.TypeA}, {"none.default.svc.cluster.local.", dns.TypeAAAA}, {"20.0.96.10.in-addr.arpa.", dns.TypePTR}} {
		m := new(dns.Msg).SetQuestion(q.name, q.qtype)
		m.SetEdns0(1232, true)
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		was := settled(t)
		ask(t, p.slow, packet, 3*time.Second)
		counted(t, was) // CoreDNS counts after it has answered
		slow := settled(t)
		ask(t, p.fast, packet, 3*time.Second)
		counted(t, slow)
		fast := settled(t)
		a, b := grown(was, slow), grown(slow, fast)
		if len(a) < 6 || !slices.Equal(a, b) {
			t.Errorf("%s: counted\n%s\nby the fast path, want\n%s", q.name, strings.Join(b, "\n"), strings.Join(a, "\n"))
		}
	}
}

// counted waits until an answer is counted in the last series that CoreDNS counts it in.
func counted(t *testing.T, before map[string]float64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		now := coreDNSCounts(t)
		if slices.ContainsFunc(grown(before, now), func(s string) bool { return strings.HasPrefix(s, "coredns_dns_responses_total") }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("an answer is not counted")
		}
	}
}

// settled returns the series once nothing more is counted of questions that were answered before, other tests' too.
func settled(t *testing.T) map[string]float64 {
	t.Helper()
	now := coreDNSCounts(t)
	for same := 0; same < 50; same++ {
		next := coreDNSCounts(t)
		if !maps.Equal(now, next) {
			now, same = next, 0
		}
	}
	return now
}

// coreDNSCounts returns CoreDNS's series of questions and answers, without the server's address and the time taken.
func coreDNSCounts(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "coredns_dns_") {
			continue
		}
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() != "server" {
					key += " " + l.GetName() + "=" + l.GetValue()
				}
			}
			if h := m.GetHistogram(); h != nil {
				out[key+" count"] += float64(h.GetSampleCount())
				if !strings.Contains(key, "duration") {
					out[key+" sum"] += h.GetSampleSum()
				}
				continue
			}
			out[key] += m.GetCounter().GetValue()
		}
	}
	return out
}

func grown(before, after map[string]float64) []string {
	var out []string
	for k, v := range after {
		if d := v - before[k]; d != 0 {
			out = append(out, fmt.Sprint(k, " +", d))
		}
	}
	slices.Sort(out)
	return out
}

func TestPlan(t *testing.T) {
	register()
	for _, tc := range []struct {
		about, text        string
		internal, external bool
		foreign            int
	}{
		{"the usual", ". {\n errors\n fairlead cluster.local\n cache\n forward . 192.0.2.1\n loadbalance\n}", true, true, 0},
		{"no cache: nothing is remembered", ". {\n fairlead cluster.local\n forward . 192.0.2.1\n}", true, false, 0},
		{"log wants to see every question", ". {\n log\n fairlead cluster.local\n cache\n forward . 192.0.2.1\n}", false, false, 0},
		{"rewrite changes questions", ". {\n rewrite name a b\n fairlead cluster.local\n}", false, false, 0},
		{"a template stands before", ". {\n template IN A\n fairlead cluster.local\n}", false, false, 0},
		{"a file stands behind", ". {\n fairlead cluster.local\n cache\n file x example.com\n}", true, false, 0},
		{"a stub zone", ". {\n fairlead cluster.local\n cache\n forward . 192.0.2.1\n}\nstub.example {\n forward . 192.0.2.2\n}", true, true, 1},
		{"weighted load balance", ". {\n fairlead cluster.local\n loadbalance weighted x\n}", false, false, 0},
		{"two blocks of ours", "a.example {\n fairlead a.example\n}\nb.example {\n fairlead b.example\n}", false, false, 0},
	} {
		p, err := planOf(tc.text)
		if err != nil || p.internal != tc.internal || p.external != tc.external || len(p.foreign) != tc.foreign {
			t.Errorf("%s: %+v %v, want internal %t, external %t, %d foreign zones", tc.about, p, err, tc.internal, tc.external, tc.foreign)
		}
	}
}

// FuzzFastPath puts packets as they are to both paths.
func FuzzFastPath(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		f.Add(randomQuestion(r))
	}
	p := newTwoPaths(f, "127.0.0.11")
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) < 2 || len(packet) > 512 {
			t.Skip()
		}
		p.same(t, packet)
	})
}
