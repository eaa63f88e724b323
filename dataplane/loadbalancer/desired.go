// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/cilium/statedb"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Mode is how a client outside is answered when its backend runs on another node than the one it asked.
type Mode string

// The modes. SNAT is the default: it needs nothing of the network between the nodes.
const (
	SNAT   Mode = "snat"   // through the node that was asked, which the backend sees as its client
	DSR    Mode = "dsr"    // directly (direct server return): the backend sees the client
	Hybrid Mode = "hybrid" // directly for TCP, through the node for the rest
)

// Dispatch is how packets get to a backend that answers directly.
type Dispatch string

// The ways.
const (
	DispatchIPIP   Dispatch = "ipip"   // in another IP header (IPIP, IP6IP6)
	DispatchOption Dispatch = "option" // with an IPv4 option or an IPv6 destination option
)

// dsr says whether services of the protocol are answered directly.
func (m Mode) dsr(p tables.Protocol) bool {
	return m == DSR || m == Hybrid && p == tables.TCP
}

func parseMode(s string, node Mode) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return node, nil
	case SNAT, DSR, Hybrid:
		return m, nil
	}
	return node, fmt.Errorf("annotation %s: %q is none of snat, dsr, hybrid", AnnotationMode, s)
}

// dsrConstant returns the value of the constant cfg_dsr (enum dsr_dispatch in bpf/lib/dsr.h): how new connections of services that are answered directly are dispatched.
func (c *Config) dsrConstant() (uint8, error) {
	switch c.Mode {
	case "", SNAT, DSR, Hybrid:
	default:
		return 0, fmt.Errorf("load balancer mode %q is none of snat, dsr, hybrid", c.Mode)
	}
	switch c.Dispatch {
	case "", DispatchIPIP:
		return 1, nil
	case DispatchOption:
		return 2, nil
	}
	return 0, fmt.Errorf("dispatch %q of direct server return is none of ipip, option", c.Dispatch)
}

// Algorithm is how a backend is chosen.
type Algorithm uint8

// The algorithms. Random is the default: it needs no state, costs the same for every number of backends, and spreads evenly over many connections.
const (
	Random Algorithm = iota
	Maglev
	LeastConnections
)

func (a Algorithm) String() string {
	return [...]string{"random", "maglev", "least-connections", "?"}[a&3]
}

func parseAlgorithm(s string) (Algorithm, error) {
	switch s {
	case "", "random":
		return Random, nil
	case "maglev":
		return Maglev, nil
	case "least-connections":
		return LeastConnections, nil
	}
	return Random, fmt.Errorf("annotation %s: %q is none of random, maglev, least-connections", AnnotationAlgorithm, s)
}

// frontend is one address and port that clients use.
type frontend struct {
	key  loader.BPFServiceKey
	kind string // ClusterIP, NodePort, ExternalIP, LoadBalancer: for people
	// flags are SERVICE_* without those that depend on backends.
	flags uint16
}

// external says whether clients outside may ask the service port.
func (ps *portSpec) external() bool {
	return slices.ContainsFunc(ps.frontends, func(f frontend) bool { return f.flags&flagExternal != 0 })
}

// endpoint is one backend of a service port.
type endpoint struct {
	addr   netip.Addr
	port   uint16
	flags  uint8 // BACKEND_*
	weight uint8
}

// portSpec is what one service port of one family should look like.
type portSpec struct {
	proto     tables.Protocol
	port      uint16
	v6        bool
	name      string
	frontends []frontend
	endpoints []endpoint // ordered by address and port
	algorithm Algorithm
	tableSize uint32 // Maglev table size; 0: by the number of backends
	hashed    bool   // the selection table must be a Maglev table
	affinity  uint32 // ticks
	ranges    []netip.Prefix
	hasRemote bool // usable endpoints exist, be they local or not
}

// serviceSpec is what a service should look like. Problems do not keep the rest from being programmed.
type serviceSpec struct {
	ports    []portSpec
	health   uint16 // health-check node port, 0: none
	localOK  int    // ready endpoints on this node, for the health check
	problems error
}

const (
	flagVIP          = 0x0001
	flagNode         = 0x0002
	flagExternal     = 0x0004
	flagOutLocal     = 0x0008
	flagInLocal      = 0x0010
	flagSourceRanges = 0x0020
	flagDSR          = 0x0040
	flagHasRemote    = 0x0080
	flagHere         = 0x0100

	backendCluster  = 0x01
	backendLocalSet = 0x02
	backendOnNode   = 0x04
	backendLive     = 0x08
)

// view is the snapshot that desired reads.
type view struct {
	txn      statedb.ReadTxn
	tables   *tables.Tables
	nodeName string
	zone     string
	mode     Mode
}

// specs computes what each of the named services should look like, in their order; empty for one that is gone. Reading only, so all CPUs share a large list.
func (v *view) specs(names []tables.Name) []serviceSpec {
	out := make([]serviceSpec, len(names))
	const chunk = 256
	var next atomic.Int64
	work := func() {
		for {
			from := int(next.Add(chunk)) - chunk
			if from >= len(names) {
				return
			}
			for i := from; i < min(from+chunk, len(names)); i++ {
				out[i] = v.spec(names[i])
			}
		}
	}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(names)/chunk) {
		wg.Go(work)
	}
	work()
	wg.Wait()
	return out
}

// spec computes what one service, or one pod's host ports, should look like.
func (v *view) spec(name tables.Name) serviceSpec {
	if id, ok := HostPortsPod(name); ok {
		if pod, _, found := v.tables.LocalPods.Get(v.txn, tables.LocalPodByID.Query(id)); found {
			return hostPorts(pod)
		}
	} else if svc, _, found := v.tables.Services.Get(v.txn, tables.ServiceByName.Query(name)); found {
		return v.desired(svc)
	}
	return serviceSpec{}
}

// ignored says whether a service is none of ours: headless, ExternalName, someone else's by label, or without address.
func ignored(s *tables.Service) bool {
	return s.Headless || s.Type == tables.ExternalName || s.ProxyName != "" || len(s.ClusterIPs) == 0
}

// desired computes the spec of a service from the tables.
func (v *view) desired(s *tables.Service) serviceSpec {
	var spec serviceSpec
	if ignored(s) {
		return spec
	}
	var errs []error
	alg, err := parseAlgorithm(s.Annotations[AnnotationAlgorithm])
	if err != nil {
		errs = append(errs, err)
	}
	size, err := parseMaglevSize(s.Annotations[AnnotationMaglevSize])
	if err != nil {
		errs = append(errs, err)
	}
	mode, err := parseMode(s.Annotations[AnnotationMode], v.mode)
	if err != nil {
		errs = append(errs, err)
	}
	sl := statedb.Collect(v.tables.EndpointSlices.List(v.txn, tables.SliceByService.Query(s.Name)))
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Port == 0 || (p.Protocol != tables.TCP && p.Protocol != tables.UDP && p.Protocol != tables.SCTP) {
			errs = append(errs, fmt.Errorf("port %q: %d/%s cannot be served", p.Name, p.Port, p.Protocol))
			continue
		}
		for _, v6 := range []bool{false, true} {
			fes := frontendsOf(s, p, v6)
			if len(fes) == 0 {
				continue
			}
			ps := portSpec{
				proto: p.Protocol, port: p.Port, v6: v6, name: p.Name, frontends: fes, algorithm: alg, tableSize: size,
				affinity: ticks(s.Affinity), ranges: rangesOf(s, v6),
			}
			for i := range fes {
				if fes[i].flags&flagExternal != 0 && mode.dsr(p.Protocol) {
					fes[i].flags |= flagDSR
				}
			}
			ps.hashed = alg == Maglev || ps.external()
			ps.endpoints, ps.hasRemote = v.endpointsOf(sl, p, v6)
			v.markHere(&ps, s.InternalPolicy)
			spec.ports = append(spec.ports, ps)
		}
	}
	if s.Type == tables.LoadBalancer && s.ExternalPolicy == tables.PolicyLocal {
		spec.health = s.HealthCheckNodePort
		spec.localOK = v.localReady(sl)
	}
	spec.problems = errors.Join(errs...)
	return spec
}

func parseMaglevSize(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || !slices.Contains(MaglevSizes, uint32(n)) {
		return 0, fmt.Errorf("annotation %s: %q is none of %v", AnnotationMaglevSize, s, MaglevSizes)
	}
	return uint32(n), nil
}

// frontendsOf lists the frontends of a service port in one family.
func frontendsOf(s *tables.Service, p *tables.ServicePort, v6 bool) []frontend {
	var out []frontend
	add := func(a netip.Addr, port uint16, kind string, flags uint16) {
		a = a.Unmap()
		if !a.IsValid() || a.Is6() != v6 || port == 0 {
			return
		}
		out = append(out, frontend{key: serviceKey(a, port, p.Protocol), kind: kind, flags: flags})
	}
	var internal, external uint16 = 0, flagExternal
	if s.InternalPolicy == tables.PolicyLocal {
		internal |= flagInLocal | flagOutLocal
	}
	if s.ExternalPolicy == tables.PolicyLocal {
		external |= flagOutLocal
	}
	hasFamily := false
	for _, a := range s.ClusterIPs {
		add(a, p.Port, "ClusterIP", internal)
		hasFamily = hasFamily || a.Unmap().Is6() == v6
	}
	for _, a := range s.ExternalIPs {
		add(a, p.Port, "ExternalIP", external)
	}
	if p.NodePort != 0 && hasFamily && (s.Type == tables.NodePort || s.Type == tables.LoadBalancer) {
		any := netip.IPv4Unspecified()
		if v6 {
			any = netip.IPv6Unspecified()
		}
		add(any, p.NodePort, "NodePort", external)
	}
	if s.Type == tables.LoadBalancer {
		if len(s.SourceRanges) > 0 {
			external |= flagSourceRanges
		}
		for _, in := range s.Ingress {
			if !in.Proxy {
				add(in.Addr, p.Port, "LoadBalancer", external)
			}
		}
	}
	return out
}

// serviceKey returns the map key of a frontend.
func serviceKey(a netip.Addr, port uint16, proto tables.Protocol) loader.BPFServiceKey {
	return loader.BPFServiceKey{Addr: loader.Addr(a.As16()), Port: loader.Htons(port), Proto: uint8(proto)}
}

func rangesOf(s *tables.Service, v6 bool) []netip.Prefix {
	if s.Type != tables.LoadBalancer {
		return nil
	}
	var out []netip.Prefix
	for _, r := range s.SourceRanges {
		if r.IsValid() && r.Addr().Is6() == v6 {
			out = append(out, r.Masked())
		}
	}
	return out
}

// endpointsOf lists the endpoints of a service port in one family, each with the sets it is in:
// new connections go to the ready endpoints, within the topology if hints say so; if none is ready, to those that terminate but still serve
// (KEP-1669). The node-local set follows the same rule among this node's endpoints. The others keep the connections they have.
func (v *view) endpointsOf(sl []*tables.EndpointSlice, p *tables.ServicePort, v6 bool) (out []endpoint, usable bool) {
	type info struct {
		ep   *tables.Endpoint
		port uint16
		w    uint8
	}
	type key struct {
		addr netip.Addr
		port uint16
	}
	total := 0
	for _, s := range sl {
		total += len(s.Endpoints)
	}
	infos := make([]info, 0, total)
	seen := make(map[key]int, total)
	for _, s := range sl {
		if s.IPv6 != v6 {
			continue
		}
		w := uint8(1)
		if n, err := strconv.ParseUint(s.Annotations[AnnotationWeight], 10, 8); err == nil && n > 0 {
			w = uint8(n)
		}
		for i := range s.Ports {
			sp := &s.Ports[i]
			if sp.Name != p.Name || sp.Protocol != p.Protocol || sp.Port == 0 {
				continue
			}
			for j := range s.Endpoints {
				ep := &s.Endpoints[j]
				a := ep.Addr.Unmap()
				if !a.IsValid() || a.Is6() != v6 || a.IsUnspecified() {
					continue
				}
				k := key{a, sp.Port}
				if at, dup := seen[k]; dup {
					// The same pod in two slices while the controller moves it: the more alive entry counts.
					if rank(ep) > rank(infos[at].ep) {
						infos[at].ep = ep
					}
					continue
				}
				seen[k] = len(infos)
				infos = append(infos, info{ep, sp.Port, w})
			}
		}
	}
	slices.SortFunc(infos, func(a, b info) int {
		if c := a.ep.Addr.Compare(b.ep.Addr); c != 0 {
			return c
		}
		return cmp.Compare(a.port, b.port)
	})
	eps := make([]*tables.Endpoint, len(infos))
	for i := range infos {
		eps[i] = infos[i].ep
	}
	inTopology := v.topology(eps)
	ready := func(e *tables.Endpoint) bool { return e.Conditions&tables.Ready != 0 }
	draining := func(e *tables.Endpoint) bool {
		return e.Conditions&tables.Serving != 0 && e.Conditions&tables.Terminating != 0
	}
	local := func(e *tables.Endpoint) bool { return e.NodeName != "" && e.NodeName == v.nodeName }
	anyReady := slices.ContainsFunc(eps, ready)
	anyLocalReady := slices.ContainsFunc(eps, func(e *tables.Endpoint) bool { return local(e) && ready(e) })
	for _, in := range infos {
		e := in.ep
		var f uint8
		if local(e) {
			f |= backendOnNode
			if ready(e) || !anyLocalReady && draining(e) {
				f |= backendLocalSet
			}
		}
		if anyReady && ready(e) && inTopology(e) || !anyReady && draining(e) {
			f |= backendCluster
		}
		if e.Conditions&(tables.Ready|tables.Serving) != 0 {
			f |= backendLive
		}
		usable = usable || f&(backendCluster|backendLocalSet) != 0
		if f&^backendOnNode == 0 {
			continue
		}
		out = append(out, endpoint{addr: e.Addr.Unmap(), port: in.port, flags: f, weight: in.w})
	}
	return out, usable
}

// markHere marks the frontends at which this node answers itself, while all that would get connections from here are the very servers that do.
func (v *view) markHere(ps *portSpec, internal tables.Policy) {
	if ps.proto != tables.TCP && ps.proto != tables.UDP {
		return
	}
	set := uint8(backendCluster)
	if internal == tables.PolicyLocal {
		set = backendLocalSet
	}
	for answer := range v.tables.Answers.All(v.txn) {
		usable := false
		others := slices.ContainsFunc(ps.endpoints, func(e endpoint) bool {
			usable = usable || e.flags&set != 0
			return e.flags&set != 0 && !slices.Contains(answer.Servers, netip.AddrPortFrom(e.addr, e.port))
		})
		if !usable || others {
			continue
		}
		key := serviceKey(answer.At.Addr(), answer.At.Port(), ps.proto)
		for i := range ps.frontends {
			if ps.frontends[i].key == key {
				ps.frontends[i].flags |= flagHere
			}
		}
	}
}

func rank(e *tables.Endpoint) int {
	return int(e.Conditions&tables.Ready)*4 + int(e.Conditions&tables.Serving)
}

// topology returns the filter that the ready endpoints' hints ask for: endpoints hinted for this node if every ready endpoint has node hints and
// one names this node; else those hinted for this zone under the same condition; else all. A missing hint anywhere turns hints off, as
// the EndpointSlice API demands.
func (v *view) topology(eps []*tables.Endpoint) func(*tables.Endpoint) bool {
	nodes, zones, forNode, forZone := true, true, false, false
	for _, e := range eps {
		if e.Conditions&tables.Ready == 0 {
			continue
		}
		nodes = nodes && len(e.ForNodes) > 0
		zones = zones && len(e.ForZones) > 0
		forNode = forNode || slices.Contains(e.ForNodes, v.nodeName)
		forZone = forZone || v.zone != "" && slices.Contains(e.ForZones, v.zone)
	}
	switch {
	case nodes && forNode:
		return func(e *tables.Endpoint) bool { return slices.Contains(e.ForNodes, v.nodeName) }
	case zones && forZone:
		return func(e *tables.Endpoint) bool { return slices.Contains(e.ForZones, v.zone) }
	}
	return func(*tables.Endpoint) bool { return true }
}

// localReady counts the distinct ready endpoints on this node.
func (v *view) localReady(sl []*tables.EndpointSlice) int {
	seen := map[netip.Addr]bool{}
	for _, s := range sl {
		for i := range s.Endpoints {
			if e := &s.Endpoints[i]; e.NodeName == v.nodeName && e.Conditions&tables.Ready != 0 {
				seen[e.Addr] = true
			}
		}
	}
	return len(seen)
}
