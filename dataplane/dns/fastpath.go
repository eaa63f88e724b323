// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/miekg/dns"
)

// fastPath answers common questions from their packet, without CoreDNS's chain of plugins: A, AAAA and PTR of cluster names, and for a moment what CoreDNS
// has just answered for names of the world. An answer is, byte for byte but for the order of addresses, what CoreDNS with our plugin would send; whatever is
// not plain is left to it.
type fastPath struct {
	plan    plan
	handler *Handler
	search  *Search      // nil: not in the Corefile
	recent  *recent      // nil: not allowed
	metrics *fastMetrics // nil: not in the Corefile
}

// newFastPath returns what h's server block, one of whose zones is cfg's, lets be answered; nil when there is nothing.
func newFastPath(p plan, s *dnsserver.Server, cfg *dnsserver.Config, h *Handler) *fastPath {
	if !p.internal || len(h.Fall.Zones) > 0 || !dns.IsSubDomain(cfg.Zone, h.Zone.Domain) {
		return nil
	}
	f := &fastPath{plan: p, handler: h, metrics: newFastMetrics(s.Addr, cfg)}
	f.search, _ = cfg.Handler(searchDirective).(*Search) // nil when there is none
	if p.external && cfg.Zone == "." {
		f.recent = newRecent()
	}
	return f
}

// answer appends the answer to packet, which came from a client, to dst and returns its length, 0 when CoreDNS is to answer.
func (f *fastPath) answer(dst, packet []byte, from netip.AddrPort) int {
	q, ok := parseQuestion(packet, f.plan.bufsize)
	q.six = from.Addr().Is6() && !from.Addr().Is4In6()
	if !ok || plugin.Zones(f.plan.foreign).Matches(q.name) != "" {
		return 0
	}
	var start time.Time
	if f.metrics != nil {
		start = time.Now()
	}
	r := f.find(q, from)
	if r.wire == nil && !r.found {
		return 0
	}
	out, plain := r.write(dst, q, f)
	if len(out) == 0 {
		return 0
	}
	fastAnswers.Inc()
	f.handler.Zone.count(r.Answer)
	if r.saved > 0 {
		searchAnswers.Inc()
		searchSaved.Add(float64(r.saved))
	}
	if f.metrics != nil {
		f.metrics.report(q, from, r.rcode, len(packet), plain, start)
	}
	return len(out)
}

// outcome is what is to be written: an answer of the zone, or one remembered.
type outcome struct {
	Answer
	found bool
	zone  string // of the SOA
	rcode int

	wire  *remembered
	now   time.Time
	saved int // questions that a resolver is spared
}

func (f *fastPath) find(q question, from netip.AddrPort) outcome {
	z := f.handler.Zone
	if dns.IsSubDomain(z.Domain, q.name) {
		if q.qtype == dns.TypePTR {
			return outcome{}
		}
		v := z.Directory.Read()
		defer v.Done()
		if !v.Complete() {
			return outcome{}
		}
		a := z.lookup(v, q.name, q.qtype, maxAliases)
		a.Serial = v.Serial()
		if a.Rcode == dns.RcodeNameError && f.search != nil {
			if base, ns, ok := f.search.split(q.name); ok && allIn(v.PodsAt(from.Addr().WithZone("").Unmap()), ns) {
				return f.walked(q, a, base, func(name string) bool { return z.lookup(v, name, q.qtype, maxAliases).Rcode == dns.RcodeNameError })
			}
		}
		return outcome{Answer: a, found: a.Rcode != dns.RcodeServerFailure, rcode: a.Rcode, zone: z.Domain}
	}
	if zone := plugin.Zones(f.handler.Reverse).Matches(q.name); zone != "" {
		addr, err := netip.ParseAddr(dnsutil.ExtractAddressFromReverse(q.name))
		if err != nil {
			return outcome{}
		}
		a, known := z.Reverse(q.name, addr, q.qtype)
		return outcome{Answer: a, found: known && a.Rcode != dns.RcodeServerFailure, rcode: a.Rcode, zone: zone}
	}
	if f.recent == nil || q.qtype == dns.TypePTR {
		return outcome{}
	}
	now := time.Now()
	wire := f.recent.get(q, now)
	return outcome{wire: wire, now: now}
}

// walked does what the plugin search does for a name that does not exist, as far as no other server need be asked for it.
func (f *fastPath) walked(q question, first Answer, base string, absent func(name string) bool) outcome {
	for _, suffix := range []string{"svc." + f.search.Domain, f.search.Domain} {
		if name := base + "." + suffix; !isName(name) || !absent(name) {
			return outcome{} // CoreDNS makes the answer
		}
	}
	if strings.Contains(base, ".") || len(f.search.Host) > 0 {
		if f.recent == nil {
			return outcome{}
		}
		now := time.Now()
		wire := f.recent.get(q, now)
		if wire == nil {
			return outcome{}
		}
		return outcome{wire: wire, now: now, saved: wire.saved}
	}
	return outcome{Answer: first, found: true, rcode: first.Rcode, zone: f.handler.Zone.Domain}
}

func isName(s string) bool { _, ok := dns.IsDomainName(s); return ok }

// write appends the reply to dst, and returns it and its length in CoreDNS's reckoning, without compression and EDNS0. It returns nothing when the reply is of a form, or too
// large, for CoreDNS only.
func (r *outcome) write(dst []byte, q question, f *fastPath) (out []byte, plain int) {
	if r.wire != nil {
		return r.wire.write(dst, q, r.now, f.plan.shuffle), r.wire.plain
	}
	if r.Alias != "" || len(r.Extra) > 0 || r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError {
		return nil, 0
	}
	records, ns := r.Answer.Answer, 0
	if len(records) == 0 {
		soa := f.handler.Zone.SOA(r.Serial)
		soa.Hdr.Name = r.zone
		records, ns = []dns.RR{soa}, 1
	} else if f.plan.shuffle && len(records) > 1 {
		rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	}
	w := &writer{out: dst, q: q}
	w.header(r.Rcode, len(records)-ns, ns)
	mark := len(w.out)
	for _, rr := range records {
		if !w.record(rr) {
			return nil, 0
		}
	}
	plain = len(w.out)
	if w.out = w.opt(w.out); len(w.out) > q.limit || q.six && len(w.out) > 1220 { // CoreDNS compresses then
		if len(w.out) > q.limit && q.limit == maxReply {
			return nil, 0
		}
		w.out, w.compress = w.out[:mark], true
		for _, rr := range records {
			if !w.record(rr) {
				return nil, 0
			}
		}
		if w.out = w.opt(w.out); len(w.out) > q.limit {
			return nil, 0
		}
	}
	return w.out, plain
}
