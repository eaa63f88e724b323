// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"net/netip"
	"strings"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
)

// Search is the CoreDNS plugin "search". A resolver with ndots:5 asks for www.example.com.<ns>.svc.<zone> first and walks its search list with a question
// each; Search walks the list here and answers the first question with what the walk would have found.
//
// It does so only when the asker's address is that of pods on this node that are all in <ns>; everybody else's questions go on unchanged. Where the
// walk meets anything but an answer or NXDOMAIN, the first answer is given and the resolver walks by itself: never worse than without.
type Search struct {
	Next      plugin.Handler
	Domain    string   // the cluster's, fully qualified, lower case
	Host      []string // the node's own search list, which the kubelet appends to a pod's; fully qualified, lower case
	Directory *directory.Directory
}

// Name implements plugin.Handler.
func (s *Search) Name() string { return searchDirective }

// ServeDNS implements plugin.Handler.
func (s *Search) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	if t := state.QType(); (t != dns.TypeA && t != dns.TypeAAAA) || state.QClass() != dns.ClassINET {
		return plugin.NextOrFailure(s.Name(), s.Next, ctx, w, r)
	}
	base, ns, ok := s.split(state.Name())
	if !ok || !s.asksFrom(state.IP(), ns) {
		return plugin.NextOrFailure(s.Name(), s.Next, ctx, w, r)
	}
	first := nonwriter.New(w)
	rcode, err := plugin.NextOrFailure(s.Name(), s.Next, ctx, first, r)
	if err != nil || first.Msg == nil {
		return rcode, err
	}
	if first.Msg.Rcode == dns.RcodeNameError {
		if m, skipped := s.walk(ctx, w, state, base); m != nil {
			searchAnswers.Inc()
			searchSaved.Add(float64(skipped))
			return dns.RcodeSuccess, w.WriteMsg(m)
		}
	}
	return rcode, w.WriteMsg(first.Msg)
}

// split reads <base>.<ns>.svc.<zone>.
func (s *Search) split(name string) (base, ns string, ok bool) {
	rest, ok := strings.CutSuffix(name, ".svc."+s.Domain)
	if !ok {
		return "", "", false
	}
	at := strings.LastIndexByte(rest, '.')
	if at <= 0 {
		return "", "", false
	}
	return rest[:at], rest[at+1:], true
}

// asksFrom reports whether addr is one of this node's pods' and every pod that has it is in namespace ns. (Two rows may have an address for the moment in
// which a pod's interface is removed and the address given to the next.)
func (s *Search) asksFrom(addr, ns string) bool {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return false
	}
	v := s.Directory.Read()
	defer v.Done()
	return allIn(v.PodsAt(ip.WithZone("").Unmap()), ns)
}

func allIn(pods []*directory.Pod, ns string) bool {
	for _, pod := range pods {
		if pod.Namespace != ns {
			return false
		}
	}
	return len(pods) > 0
}

// walk asks for base below the rest of the search list, then for base itself, and returns the first name's answer that exists, as an alias of the name asked for. It
// returns how many questions the resolver is spared. A base of one label is not asked for by itself: it would be a top-level domain.
func (s *Search) walk(ctx context.Context, w dns.ResponseWriter, state request.Request, base string) (m *dns.Msg, spared int) {
	list := append([]string{"svc." + s.Domain, s.Domain}, s.Host...)
	if strings.Contains(base, ".") {
		list = append(list, "")
	}
	for i, suffix := range list {
		name := base + "." + suffix
		if _, ok := dns.IsDomainName(name); !ok {
			continue
		}
		r := state.Req.Copy()
		r.Question[0].Name = name
		nw := nonwriter.New(w)
		_, err := plugin.NextOrFailure(s.Name(), s.Next, ctx, nw, r)
		if err != nil || nw.Msg == nil {
			return nil, 0
		}
		switch nw.Msg.Rcode {
		case dns.RcodeNameError:
			continue
		case dns.RcodeSuccess:
			return aliased(nw.Msg, state, name), i + 1
		}
		return nil, 0
	}
	return nil, 0
}

// aliased makes m, an answer for name, an answer for the question in state.
func aliased(m *dns.Msg, state request.Request, name string) *dns.Msg {
	ttl := uint32(defaultTTL)
	for _, rr := range m.Answer {
		ttl = min(ttl, rr.Header().Ttl)
	}
	out := m.Copy()
	out.SetRcode(state.Req, dns.RcodeSuccess)
	out.Authoritative = m.Authoritative
	out.RecursionAvailable = m.RecursionAvailable
	cname := &dns.CNAME{Hdr: dns.RR_Header{Name: state.QName(), Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: ttl}, Target: name}
	out.Answer = append([]dns.RR{cname}, out.Answer...)
	return out
}
