// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
)

// SchemaVersion is the version of the specification that the records follow (section 1, section 2.2).
const SchemaVersion = "1.1.0"

// PodMode says how names of the form a-b-c-d.<ns>.pod.<zone> are answered (section 2.6).
type PodMode int

const (
	PodsDisabled PodMode = iota // NXDOMAIN
	PodsInsecure                // whatever address the name spells
	PodsVerified                // addresses of pods that the directory knows: those of this node, and every endpoint of a service
)

// Zone answers for one cluster domain from a directory.
type Zone struct {
	Domain    string // fully qualified and lower case: "cluster.local."
	TTL       uint32 // seconds, of every record but dns-version's
	Pods      PodMode
	Directory *directory.Directory

	asked *counts // nil: not counted
}

// Answer is the outcome of a lookup. Records carry the names as they are in the zone, in lower case.
type Answer struct {
	Rcode  int // RcodeSuccess with no Records is NODATA
	Answer []dns.RR
	Extra  []dns.RR
	// Alias is the target of an ExternalName service that is outside the zone: the caller resolves it. Answer holds the CNAME.
	Alias string
	// Serial is the zone's at the moment of the answer.
	Serial uint32

	service *directory.Service // that was asked for; nil: none
}

var nxdomain = Answer{Rcode: dns.RcodeNameError}

// maxAliases bounds chains of ExternalName services that point at each other.
const maxAliases = 8

// Lookup answers a question; name is fully qualified, in lower case, and in the zone. Until the directory is complete the answer is SERVFAIL, so that nobody remembers a
// name as absent that is only not known yet.
func (z *Zone) Lookup(name string, qtype uint16) Answer {
	v := z.Directory.Read()
	defer v.Done()
	if !v.Complete() {
		return Answer{Rcode: dns.RcodeServerFailure}
	}
	a := z.lookup(v, name, qtype, maxAliases)
	a.Serial = v.Serial()
	return a
}

func (z *Zone) lookup(v directory.View, name string, qtype uint16, aliases int) Answer {
	rel := strings.TrimSuffix(strings.TrimSuffix(name, z.Domain), ".")
	if rel == "" {
		return z.apex(v, qtype)
	}
	labels := strings.Split(rel, ".")
	last := labels[len(labels)-1]
	switch {
	case rel == "dns-version":
		return z.version(name, qtype)
	case rel == "dns":
		return Answer{} // between the zone and its name server
	case rel == "ns.dns":
		return Answer{Answer: z.addresses(name, z.nameServer(v), qtype)}
	case last == "svc":
		return z.service(v, name, labels[:len(labels)-1], qtype, aliases)
	case last == "pod" && z.Pods != PodsDisabled:
		return z.pod(v, name, labels[:len(labels)-1], qtype)
	}
	return nxdomain
}

func (z *Zone) apex(v directory.View, qtype uint16) Answer {
	ns := &dns.NS{Hdr: z.header(z.Domain, dns.TypeNS), Ns: z.nsName()}
	glue := func() []dns.RR { return z.addresses(ns.Ns, z.nameServer(v), dns.TypeANY) }
	switch qtype {
	case dns.TypeSOA:
		return Answer{Answer: []dns.RR{z.SOA(v.Serial())}}
	case dns.TypeNS:
		return Answer{Answer: []dns.RR{ns}, Extra: glue()}
	case dns.TypeANY:
		return Answer{Answer: []dns.RR{z.SOA(v.Serial()), ns}, Extra: glue()}
	}
	return Answer{}
}

func (z *Zone) nsName() string { return "ns.dns." + z.Domain }

// nameServer returns the addresses of the cluster's DNS Service, none while there is no such Service.
func (z *Zone) nameServer(v directory.View) []netip.Addr {
	if svc := v.Service(directory.Name{Namespace: "kube-system", Name: "kube-dns"}); svc != nil {
		return svc.ClusterIPs
	}
	return nil
}

// version is the record of section 2.2.
func (z *Zone) version(name string, qtype uint16) Answer {
	if qtype != dns.TypeTXT && qtype != dns.TypeANY {
		return Answer{}
	}
	h := z.header(name, dns.TypeTXT)
	h.Ttl = 28800
	return Answer{Answer: []dns.RR{&dns.TXT{Hdr: h, Txt: []string{SchemaVersion}}}}
}

// service answers names below svc.<zone>; labels are what stands before it.
func (z *Zone) service(v directory.View, name string, labels []string, qtype uint16, aliases int) Answer {
	n := len(labels)
	switch n {
	case 0:
		return Answer{}
	case 1:
		return z.namespace(v, labels[0])
	}
	svc := v.Service(directory.Name{Namespace: labels[n-1], Name: labels[n-2]})
	if svc == nil {
		return nxdomain
	}
	a := z.ofService(v, svc, name, labels, qtype, aliases)
	a.service = svc
	return a
}

// count adds an answer to the counters of services.
func (z *Zone) count(a Answer) {
	if z.asked != nil && a.service != nil {
		z.asked.add(a.service.Name)
	}
}

// ofService answers for svc, whose namespace and name are the last two of labels.
func (z *Zone) ofService(v directory.View, svc *directory.Service, name string, labels []string, qtype uint16, aliases int) Answer {
	n := len(labels)
	if svc.External {
		if n > 2 {
			return nxdomain
		}
		return z.alias(v, name, svc, qtype, aliases)
	}
	if !svc.Headless && len(svc.ClusterIPs) == 0 {
		return nxdomain
	}
	eps := func() []endpoint { return z.endpoints(v, svc) }
	switch {
	case n == 2 && !svc.Headless:
		return Answer{Answer: z.addresses(name, svc.ClusterIPs, qtype)}
	case n == 2:
		all := eps()
		if len(all) == 0 {
			return nxdomain // section 2.4.1
		}
		return Answer{Answer: z.addresses(name, addrsOf(all), qtype)}
	case n == 3 && isProtocol(labels[0]):
		return z.emptyNonTerminal(svc, labels[0], eps)
	case n == 3 && svc.Headless:
		return z.hostname(name, labels[0], eps(), qtype)
	case n == 4 && strings.HasPrefix(labels[0], "_") && isProtocol(labels[1]):
		return z.srv(name, svc, labels[0][1:], labels[1], eps, qtype)
	}
	return nxdomain
}

// namespace answers <ns>.svc.<zone>: it has no records, and exists when there is a service below it (RFC 8020).
func (z *Zone) namespace(v directory.View, ns string) Answer {
	if v.HasNamespace(ns) {
		return Answer{}
	}
	return nxdomain
}

// alias answers for an ExternalName service (section 2.5). A target inside the zone is resolved here.
func (z *Zone) alias(v directory.View, name string, svc *directory.Service, qtype uint16, aliases int) Answer {
	target := dns.Fqdn(strings.ToLower(svc.Target))
	if _, ok := dns.IsDomainName(target); !ok || svc.Target == "" {
		return Answer{Rcode: dns.RcodeServerFailure}
	}
	cname := &dns.CNAME{Hdr: z.header(name, dns.TypeCNAME), Target: target}
	if qtype == dns.TypeCNAME {
		return Answer{Answer: []dns.RR{cname}}
	}
	if !dns.IsSubDomain(z.Domain, target) {
		return Answer{Answer: []dns.RR{cname}, Alias: target}
	}
	if aliases == 0 {
		return Answer{Rcode: dns.RcodeServerFailure}
	}
	a := z.lookup(v, target, qtype, aliases-1)
	a.Answer = append([]dns.RR{cname}, a.Answer...)
	return a
}

// hostname answers <hostname>.<service>... of a headless service (section 2.4.1).
func (z *Zone) hostname(name, host string, eps []endpoint, qtype uint16) Answer {
	var addrs []netip.Addr
	for _, ep := range eps {
		if ep.host() == host {
			addrs = append(addrs, ep.addr)
		}
	}
	if len(addrs) == 0 {
		return nxdomain
	}
	return Answer{Answer: z.addresses(name, addrs, qtype)}
}

// emptyNonTerminal answers _<proto>.<service>...: it exists when there is an SRV record below it.
func (z *Zone) emptyNonTerminal(svc *directory.Service, proto string, eps func() []endpoint) Answer {
	if !svc.Headless {
		for _, p := range svc.Ports {
			if "_"+p.Protocol == proto {
				return Answer{}
			}
		}
		return nxdomain
	}
	for _, ep := range eps() {
		for _, p := range ep.ports {
			if "_"+p.Protocol == proto {
				return Answer{}
			}
		}
	}
	return nxdomain
}

// srv answers _<port>._<proto>.<service>... (sections 2.3.2 and 2.4.2).
func (z *Zone) srv(name string, svc *directory.Service, port, proto string, eps func() []endpoint, qtype uint16) Answer {
	base := svc.Name.Name + "." + svc.Name.Namespace + ".svc." + z.Domain
	wanted := qtype == dns.TypeSRV || qtype == dns.TypeANY
	var a Answer
	found := false
	record := func(target string, port uint16, addrs []netip.Addr) {
		found = true
		if !wanted {
			return
		}
		a.Answer = append(a.Answer, &dns.SRV{Hdr: z.header(name, dns.TypeSRV), Priority: 0, Weight: 100, Port: port, Target: target})
		a.Extra = append(a.Extra, z.addresses(target, addrs, dns.TypeANY)...)
	}
	if !svc.Headless {
		for _, p := range svc.Ports {
			if p.Name == port && "_"+p.Protocol == proto {
				record(base, p.Port, svc.ClusterIPs)
			}
		}
	} else {
		seen := map[string]bool{}
		for _, ep := range eps() {
			for _, p := range ep.ports {
				if p.Name != port || "_"+p.Protocol != proto {
					continue
				}
				if host := ep.host(); seen[host] {
					found = true
					if wanted {
						a.Extra = append(a.Extra, z.addresses(ep.host()+"."+base, []netip.Addr{ep.addr}, dns.TypeANY)...)
					}
					continue
				}
				seen[ep.host()] = true
				record(ep.host()+"."+base, p.Port, []netip.Addr{ep.addr})
			}
		}
	}
	if !found {
		return nxdomain
	}
	return a
}

// pod answers a-b-c-d.<ns>.pod.<zone> (section 2.6).
func (z *Zone) pod(v directory.View, name string, labels []string, qtype uint16) Answer {
	switch len(labels) {
	case 0:
		return Answer{}
	case 1:
		return z.namespace(v, labels[0])
	case 2:
		if addr, ok := dashedAddr(labels[0]); ok && (z.Pods != PodsVerified || z.podExists(v, labels[1], addr)) {
			return Answer{Answer: z.addresses(name, []netip.Addr{addr}, qtype)}
		}
	}
	return nxdomain
}

// podExists reports whether a pod of namespace ns is known to have addr. Pods of other nodes that no service selects are not known here: the node
// watches no pods but its own.
func (z *Zone) podExists(v directory.View, ns string, addr netip.Addr) bool {
	for _, pod := range v.PodsAt(addr) {
		if pod.Namespace == ns {
			return true
		}
	}
	for slice := range v.SlicesAt(addr) {
		for i := range slice.Endpoints {
			if ep := &slice.Endpoints[i]; ep.Addr == addr && ep.Pod && slice.Name.Namespace == ns {
				return true
			}
		}
	}
	return false
}

// Reverse answers a PTR question for addr (sections 2.3.3 and 2.4.3). ok is false when the address is none of the cluster's.
func (z *Zone) Reverse(name string, addr netip.Addr, qtype uint16) (a Answer, ok bool) {
	v := z.Directory.Read()
	defer v.Done()
	if !v.Complete() {
		return Answer{Rcode: dns.RcodeServerFailure}, true
	}
	record := func(target string) {
		ok = true
		if qtype == dns.TypePTR || qtype == dns.TypeANY {
			a.Answer = append(a.Answer, &dns.PTR{Hdr: z.header(name, dns.TypePTR), Ptr: target})
		}
	}
	for _, svc := range v.ServicesAt(addr) {
		record(svc.Name.Name + "." + svc.Name.Namespace + ".svc." + z.Domain)
	}
	a.Serial = v.Serial()
	var seen []directory.Name // several slices of a service may hold the address
	for slice := range v.SlicesAt(addr) {
		if slices.Contains(seen, slice.ServiceName()) {
			continue
		}
		seen = append(seen, slice.ServiceName())
		svc := v.Service(slice.ServiceName())
		if svc == nil || !svc.Headless {
			continue
		}
		for _, ep := range z.endpoints(v, svc) {
			if ep.addr == addr {
				record(ep.host() + "." + svc.Name.Name + "." + svc.Name.Namespace + ".svc." + z.Domain)
			}
		}
	}
	return a, ok
}

// SOA is the zone's start of authority at a serial; its minimum is the time to live of negative answers (RFC 2308).
func (z *Zone) SOA(serial uint32) *dns.SOA {
	return &dns.SOA{
		Hdr: z.header(z.Domain, dns.TypeSOA), Ns: z.nsName(), Mbox: "hostmaster." + z.Domain,
		Serial: serial, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: z.TTL,
	}
}

func (z *Zone) header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: z.TTL}
}

// addresses returns the A and AAAA records of name that qtype asks for. Records of many addresses are allocated together.
func (z *Zone) addresses(name string, addrs []netip.Addr, qtype uint16) []dns.RR {
	want4, want6 := qtype == dns.TypeA || qtype == dns.TypeANY, qtype == dns.TypeAAAA || qtype == dns.TypeANY
	n4, n6 := 0, 0
	for _, a := range addrs {
		switch {
		case a.Is4() && want4:
			n4++
		case a.Is6() && want6:
			n6++
		}
	}
	if n4+n6 == 0 {
		return nil
	}
	out := make([]dns.RR, 0, n4+n6)
	as, aaaas := make([]dns.A, 0, n4), make([]dns.AAAA, 0, n6)
	for _, a := range addrs {
		switch {
		case a.Is4() && want4:
			as = append(as, dns.A{Hdr: z.header(name, dns.TypeA), A: a.AsSlice()})
			out = append(out, &as[len(as)-1])
		case a.Is6() && want6:
			aaaas = append(aaaas, dns.AAAA{Hdr: z.header(name, dns.TypeAAAA), AAAA: a.AsSlice()})
			out = append(out, &aaaas[len(aaaas)-1])
		}
	}
	return out
}
