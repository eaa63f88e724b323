// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"strings"

	"github.com/cilium/statedb"
	"github.com/coredns/coredns/plugin/transfer"
	"github.com/miekg/dns"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// Transfer implements CoreDNS's transfer.Transferer: the whole cluster zone of one moment, as Lookup would answer for each of its names. Records below
// pod.<zone> are made up from their names and not transferred. A secondary whose serial is the zone's is sent the SOA alone (RFC 1995 section 2).
func (h *Handler) Transfer(zone string, serial uint32) (<-chan []dns.RR, error) {
	if !strings.EqualFold(zone, h.Zone.Domain) || !h.Zone.Ready() {
		return nil, transfer.ErrNotAuthoritative
	}
	soa := h.Zone.SOA()
	out := make(chan []dns.RR)
	go func() { // ends when the transfer plugin has read everything, which it does even when its client is gone
		defer close(out)
		out <- []dns.RR{soa}
		if serial == soa.(*dns.SOA).Serial {
			return
		}
		h.Zone.each(func(rrs []dns.RR) { out <- rrs })
		out <- []dns.RR{soa}
	}()
	return out, nil
}

// each yields every record of the zone but the SOA, grouped by service.
func (z *Zone) each(yield func([]dns.RR)) {
	txn := z.Tables.DB.ReadTxn()
	ns := z.apex(txn, dns.TypeNS)
	yield(append(ns.Answer, ns.Extra...))
	yield(z.version("dns-version."+z.Domain, dns.TypeTXT).Answer)
	for svc := range z.Tables.Services.All(txn) {
		if rrs := z.ofService(txn, svc); len(rrs) > 0 {
			yield(rrs)
		}
	}
}

// ofService returns the records of one service: those of its own name, of its endpoints' host names and of its named ports.
func (z *Zone) ofService(txn statedb.ReadTxn, svc *tables.Service) []dns.RR {
	base := svc.Name.Name + "." + svc.Name.Namespace + ".svc." + z.Domain
	if svc.Type == tables.ExternalName {
		return z.alias(txn, base, svc, dns.TypeCNAME, 0).Answer
	}
	type port struct{ name, proto string }
	ports := map[port]bool{}
	var rrs []dns.RR
	var eps []endpoint
	if svc.Headless {
		eps = z.endpoints(txn, svc)
		rrs = z.addresses(base, addrsOf(eps), dns.TypeANY)
		for _, ep := range eps {
			rrs = append(rrs, z.addresses(ep.host()+"."+base, addrsOf([]endpoint{ep}), dns.TypeANY)...)
			for _, p := range ep.ports {
				ports[port{strings.ToLower(p.Name), protocolLabel(p.Protocol)}] = true
			}
		}
	} else {
		rrs = z.addresses(base, svc.ClusterIPs, dns.TypeANY)
		for _, p := range svc.Ports {
			ports[port{strings.ToLower(p.Name), protocolLabel(p.Protocol)}] = true
		}
	}
	for p := range ports {
		if p.name == "" {
			continue
		}
		rrs = append(rrs, z.srv("_"+p.name+"."+p.proto+"."+base, svc, p.name, p.proto, func() []endpoint { return eps }, dns.TypeSRV).Answer...)
	}
	return rrs
}
