// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"strings"

	"github.com/coredns/coredns/plugin/transfer"
	"github.com/miekg/dns"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
)

// Transfer implements CoreDNS's transfer.Transferer: the whole cluster zone of one moment, as Lookup would answer for each of its names. Records below
// pod.<zone> are made up from their names and not transferred. A secondary whose serial is the zone's is sent the SOA alone (RFC 1995 section 2).
func (h *Handler) Transfer(zone string, serial uint32) (<-chan []dns.RR, error) {
	moment := &Zone{Domain: h.Zone.Domain, TTL: h.Zone.TTL, Directory: h.Zone.Directory.Snapshot()}
	if !strings.EqualFold(zone, h.Zone.Domain) || !moment.Directory.Complete() {
		return nil, transfer.ErrNotAuthoritative
	}
	out := make(chan []dns.RR)
	go func() { // ends when the transfer plugin has read everything, which it does even when its client is gone
		defer close(out)
		v := moment.Directory.Read()
		defer v.Done()
		soa := moment.SOA(v.Serial())
		out <- []dns.RR{soa}
		if serial == soa.Serial {
			return
		}
		moment.each(v, func(rrs []dns.RR) { out <- rrs })
		out <- []dns.RR{soa}
	}()
	return out, nil
}

// each yields every record of the zone but the SOA, grouped by service.
func (z *Zone) each(v directory.View, yield func([]dns.RR)) {
	ns := z.apex(v, dns.TypeNS)
	yield(append(ns.Answer, ns.Extra...))
	yield(z.version("dns-version."+z.Domain, dns.TypeTXT).Answer)
	for _, svc := range v.Services() {
		if rrs := z.recordsOf(v, svc); len(rrs) > 0 {
			yield(rrs)
		}
	}
}

// recordsOf returns the records of one service: those of its own name, of its endpoints' host names and of its named ports.
func (z *Zone) recordsOf(v directory.View, svc *directory.Service) []dns.RR {
	base := svc.Name.Name + "." + svc.Name.Namespace + ".svc." + z.Domain
	if svc.External {
		return z.alias(v, base, svc, dns.TypeCNAME, 0).Answer
	}
	ports := map[directory.Port]bool{} // by name and protocol
	var rrs []dns.RR
	var eps []endpoint
	if svc.Headless {
		eps = z.endpoints(v, svc)
		rrs = z.addresses(base, addrsOf(eps), dns.TypeANY)
		for _, ep := range eps {
			rrs = append(rrs, z.addresses(ep.host()+"."+base, addrsOf([]endpoint{ep}), dns.TypeANY)...)
			for _, p := range ep.ports {
				ports[directory.Port{Name: p.Name, Protocol: p.Protocol}] = true
			}
		}
	} else {
		rrs = z.addresses(base, svc.ClusterIPs, dns.TypeANY)
		for _, p := range svc.Ports {
			ports[directory.Port{Name: p.Name, Protocol: p.Protocol}] = true
		}
	}
	for p := range ports {
		srv := z.srv("_"+p.Name+"._"+p.Protocol+"."+base, svc, p.Name, "_"+p.Protocol, func() []endpoint { return eps }, dns.TypeSRV)
		rrs = append(rrs, srv.Answer...)
	}
	return rrs
}
