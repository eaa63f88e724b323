// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"net/netip"
	"strings"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/coredns/coredns/plugin/pkg/fall"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

// Upstream resolves the targets of ExternalName services; CoreDNS's upstream package implements it.
type Upstream interface {
	Lookup(ctx context.Context, state request.Request, name string, typ uint16) (*dns.Msg, error)
}

// Handler is the CoreDNS plugin "fairlead".
type Handler struct {
	Next     plugin.Handler
	Zone     *Zone
	Reverse  []string // reverse zones answered for, such as "10.in-addr.arpa."
	Fall     fall.F
	Upstream Upstream
	// HostSearch is the node's own search list, for AutoPath; fully qualified, lower case.
	HostSearch []string
}

// Name implements plugin.Handler.
func (h *Handler) Name() string { return "fairlead" }

// Ready implements CoreDNS's readiness interface.
func (h *Handler) Ready() bool { return h.Zone.Directory.Complete() }

// ServeDNS answers questions in the zones and hands others on.
func (h *Handler) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	name := state.Name() // lower case
	forward := dns.IsSubDomain(h.Zone.Domain, name)
	zone := h.Zone.Domain
	if !forward {
		if zone = plugin.Zones(h.Reverse).Matches(name); zone == "" {
			return h.next(ctx, w, r)
		}
	}
	if state.QClass() != dns.ClassINET {
		return h.next(ctx, w, r)
	}
	if t := state.QType(); t == dns.TypeAXFR || t == dns.TypeIXFR {
		return dns.RcodeRefused, nil // CoreDNS's plugin transfer, where configured, did not let it through
	}
	var a Answer
	if forward {
		a = h.Zone.Lookup(name, state.QType())
		h.Zone.count(a)
	} else {
		addr, err := netip.ParseAddr(dnsutil.ExtractAddressFromReverse(name))
		known := false
		if err == nil {
			a, known = h.Zone.Reverse(name, addr, state.QType())
		}
		if !known { // the network's own reverse zones may know it
			return h.next(ctx, w, r)
		}
	}
	if a.Rcode == dns.RcodeNameError && h.Fall.Through(name) {
		return h.next(ctx, w, r)
	}
	return h.reply(ctx, state, zone, a)
}

// next hands a question on. With nobody behind, as without upstream servers, the name is none of ours: REFUSED (RFC 1035 section 4.1.1).
func (h *Handler) next(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	if h.Next == nil {
		return dns.RcodeRefused, nil
	}
	return plugin.NextOrFailure(h.Name(), h.Next, ctx, w, r)
}

func (h *Handler) reply(ctx context.Context, state request.Request, zone string, a Answer) (int, error) {
	if a.Rcode == dns.RcodeServerFailure {
		return a.Rcode, nil
	}
	m := new(dns.Msg)
	m.SetRcode(state.Req, a.Rcode)
	m.Authoritative = true
	m.Answer, m.Extra = a.Answer, a.Extra
	if a.Alias != "" && h.Upstream != nil {
		if up, err := h.Upstream.Lookup(ctx, state, a.Alias, state.QType()); err == nil && up != nil {
			m.Answer = append(m.Answer, up.Answer...)
			m.Authoritative = false
		}
	}
	if len(m.Answer) == 0 {
		soa := h.Zone.SOA(a.Serial)
		soa.Header().Name = zone
		m.Ns = []dns.RR{soa}
	}
	keepCase(m, state.Name(), state.QName())
	if err := state.W.WriteMsg(m); err != nil {
		return dns.RcodeServerFailure, err
	}
	return dns.RcodeSuccess, nil
}

// keepCase writes the records of the asked name as the asker wrote it, which resolvers that mix case to detect spoofing compare (draft-vixie-dnsext-dns0x20).
func keepCase(m *dns.Msg, lower, asked string) {
	if lower == asked {
		return
	}
	for _, rr := range m.Answer {
		if strings.EqualFold(rr.Header().Name, lower) {
			rr.Header().Name = asked
		}
	}
}
