// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// The reference model: what Services mean, for one packet after another, in plain Go. It shares nothing with the datapath or the reconciler: it reads the
// table rows by its own rules, keeps its own connections, and where the datapath is free to choose (which backend, which source port) it checks that the choice
// was allowed and is kept.

type tuple struct {
	src, dst     netip.Addr
	sport, dport uint16
	proto        uint8
}

func (t tuple) String() string {
	return fmt.Sprintf("%s:%d -> %s:%d proto %d", t.src, t.sport, t.dst, t.dport, t.proto)
}

func (t tuple) reverse() tuple { return tuple{t.dst, t.src, t.dport, t.sport, t.proto} }

// modelBackend is an endpoint from its appearance to its removal; one that comes back is another.
type modelBackend struct {
	addr  netip.Addr
	port  uint16
	ready bool
	drain bool // terminating and serving
	near  bool // on this node
	gone  bool
}

func (b *modelBackend) live() bool { return !b.gone && (b.ready || b.drain) }

type modelService struct {
	name     string
	v6       bool
	proto    tables.Protocol
	port     uint16
	nodePort uint16
	vip      netip.Addr
	extern   netip.Addr
	ingress  netip.Addr // load balancer address; source ranges apply
	sources  []netip.Prefix
	affinity bool
	extLocal bool
	intLocal bool
	alg      string
	backends []*modelBackend
	clients  map[netip.Addr]*modelBackend // affinity
}

// choices are the backends that a new connection may go to.
func (s *modelService) choices(local bool) []*modelBackend {
	pick := func(ok func(*modelBackend) bool) (out []*modelBackend) {
		for _, b := range s.backends {
			if ok(b) && (!local || b.near) {
				out = append(out, b)
			}
		}
		return
	}
	if ready := pick(func(b *modelBackend) bool { return b.ready }); len(ready) > 0 {
		return ready
	}
	return pick(func(b *modelBackend) bool { return b.drain })
}

type modelFlow struct {
	in, out tuple // as the client's packet arrives and leaves
	backend *modelBackend
	closing bool
	fin     [2]bool
}

type model struct {
	services []*modelService
	forward  map[tuple]*modelFlow
	reply    map[tuple]*modelFlow
}

// outcome is what happens to a packet.
type outcome int

const (
	untouched outcome = iota
	toNear
	toFar
	answered
	dropped
)

// expect says what must happen to a packet from the wire; check, if not nil, judges the translated tuple and remembers it.
func (m *model) expect(p tuple, flags uint8) (outcome, func(got tuple) error) {
	if f := m.reply[p]; f != nil && !f.backend.near {
		// An answer from a remote backend to the node's translated port.
		m.touch(f, 1, flags)
		want := f.in.reverse()
		return toFar, func(got tuple) error { return same(got, want) }
	}
	s, kind := m.find(p)
	if s == nil {
		if kind == "vip" {
			return refused(p, flags), nil
		}
		return untouched, nil
	}
	if f := m.forward[p]; f != nil {
		fresh := p.proto != 6 || flags&(2|16) == 2
		if !fresh || !f.closing && f.backend.live() {
			m.touch(f, 0, flags)
			return nearOrFar(f.backend), func(got tuple) error { return same(got, f.out) }
		}
	}
	inside := pod(p.src)
	if kind == "ingress" && !inside && len(s.sources) > 0 && !slices.ContainsFunc(s.sources, func(r netip.Prefix) bool { return r.Contains(p.src) }) {
		return dropped, nil
	}
	local := kind == "vip" && s.intLocal || kind != "vip" && s.extLocal && !inside
	choices := s.choices(local)
	if len(choices) == 0 {
		if len(s.choices(false))+len(s.choices(true)) > 0 {
			return dropped, nil
		}
		return refused(p, flags), nil
	}
	if kept := s.clients[p.src]; s.affinity && kept != nil && !kept.gone && slices.Contains(choices, kept) {
		choices = []*modelBackend{kept}
	} else {
		delete(s.clients, p.src) // whatever is chosen now counts from now on
	}
	if p.proto == 132 && choices[0].port != p.dport {
		return dropped, nil
	}
	return -1, func(got tuple) error {
		at := slices.IndexFunc(choices, func(b *modelBackend) bool { return b.addr == got.dst && b.port == got.dport })
		if at < 0 {
			return fmt.Errorf("went to %s:%d, no backend for it", got.dst, got.dport)
		}
		b := choices[at]
		f := &modelFlow{in: p, out: got, backend: b}
		wantSrc, wantPort := p.src, p.sport
		moved := false
		if !b.near {
			wantSrc, moved = node(p.src), true
		} else if other := m.reply[got2(p, b).reverse()]; other != nil && other.in.dst != p.dst || other != nil && other.in.dport != p.dport {
			moved = !other.closing
		}
		if got.src != wantSrc {
			return fmt.Errorf("source became %s, want %s", got.src, wantSrc)
		}
		if moved && p.proto != 132 {
			if got.sport < 12000 || got.sport > 29999 {
				return fmt.Errorf("source port became %d, outside the range for translation", got.sport)
			}
			if m.reply[got.reverse()] != nil {
				return fmt.Errorf("source port %d is another connection's", got.sport)
			}
		} else if got.sport != wantPort {
			return fmt.Errorf("source port became %d, want %d", got.sport, wantPort)
		}
		m.forward[p] = f
		m.reply[got.reverse()] = f
		if s.affinity {
			s.clients[p.src] = b
		}
		return nil
	}
}

// refused: a segment that is a reset itself is never answered.
func refused(p tuple, flags uint8) outcome {
	if p.proto == 6 && flags&4 != 0 {
		return dropped
	}
	return answered
}

func got2(p tuple, b *modelBackend) tuple { return tuple{p.src, b.addr, p.sport, b.port, p.proto} }

func nearOrFar(b *modelBackend) outcome {
	if b.near {
		return toNear
	}
	return toFar
}

// expectOut says what must happen to a packet that leaves by the uplink.
func (m *model) expectOut(p tuple, flags uint8) (outcome, func(got tuple) error) {
	f := m.reply[p]
	if f == nil || !f.backend.near {
		return untouched, nil
	}
	m.touch(f, 1, flags)
	want := f.in.reverse()
	return toNear, func(got tuple) error { return same(got, want) }
}

func (m *model) touch(f *modelFlow, direction int, flags uint8) {
	if f.in.proto != 6 {
		return
	}
	// A flow whose other entry is a later connection's still ends by itself, but cannot learn that the other side closed.
	if flags&1 != 0 {
		f.fin[direction] = true
	}
	if flags&4 != 0 || f.fin[0] && f.fin[1] {
		f.closing = true
	}
}

func same(got, want tuple) error {
	if got != want {
		return fmt.Errorf("became %v, want %v", got, want)
	}
	return nil
}

// portTaken says whether a new connection could not keep its source port towards some backend.
func (m *model) portTaken(p tuple) bool {
	s, _ := m.find(p)
	delete(s.clients, p.src) // affinity may have been noted before the port was found taken
	return slices.ContainsFunc(s.backends, func(b *modelBackend) bool {
		t := got2(p, b)
		if !b.near {
			t.src = node(p.src)
		}
		return m.reply[t.reverse()] != nil
	})
}

// find returns the service that a packet is for and the kind of address; kind "vip" without service: a service address, but no such port.
func (m *model) find(p tuple) (*modelService, string) {
	kind := ""
	for _, s := range m.services {
		for k, a := range map[string]netip.Addr{"vip": s.vip, "extern": s.extern, "ingress": s.ingress} {
			if a != p.dst {
				continue
			}
			if uint8(s.proto) == p.proto && s.port == p.dport {
				return s, k
			}
			kind = "vip"
		}
	}
	if p.dst == node(p.dst) {
		for _, s := range m.services {
			if s.v6 == p.dst.Is6() && uint8(s.proto) == p.proto && s.nodePort == p.dport {
				return s, "nodeport"
			}
		}
		return nil, "node"
	}
	return nil, kind
}

func node(like netip.Addr) netip.Addr {
	if like.Is6() {
		return rigNode6
	}
	return rigNode4
}

func pod(a netip.Addr) bool {
	return netip.MustParsePrefix("10.244.0.0/16").Contains(a) || netip.MustParsePrefix("fd00:10:244::/56").Contains(a)
}

// rows writes a service as table rows.
func (s *modelService) rows() []any {
	row := svc(s.name, s.port, s.proto, s.vip.String())
	row.Type = tables.LoadBalancer
	row.Ports[0].NodePort = s.nodePort
	row.ExternalIPs = []netip.Addr{s.extern}
	row.Ingress = []tables.IngressIP{{Addr: s.ingress}}
	row.SourceRanges = s.sources
	row.Annotations = map[string]string{AnnotationAlgorithm: s.alg}
	if s.affinity {
		row.Affinity = 3 * 3600e9
	}
	if s.extLocal {
		row.ExternalPolicy = tables.PolicyLocal
	}
	if s.intLocal {
		row.InternalPolicy = tables.PolicyLocal
	}
	sl := &tables.EndpointSlice{
		Name: tables.Name{Namespace: "default", Name: s.name + "-1"}, Service: s.name, IPv6: s.v6,
		Ports: []tables.EndpointPort{{Name: "p", Protocol: s.proto, Port: s.targetPort()}},
	}
	for _, b := range s.backends {
		ep := tables.Endpoint{Addr: b.addr, NodeName: "n2"}
		if b.near {
			ep.NodeName = "n1"
		}
		switch {
		case b.ready:
			ep.Conditions = tables.Ready | tables.Serving
		case b.drain:
			ep.Conditions = tables.Serving | tables.Terminating
		}
		sl.Endpoints = append(sl.Endpoints, ep)
	}
	// The node answers at some services' own addresses: what comes from the wire does not care.
	answer := &tables.Answer{At: netip.AddrPortFrom(s.vip, s.port)}
	for _, b := range s.backends {
		if b.near || len(s.name) == 2 {
			answer.Servers = append(answer.Servers, netip.AddrPortFrom(b.addr, b.port))
		}
	}
	return []any{row, sl, answer}
}

func (s *modelService) targetPort() uint16 {
	if s.proto == tables.SCTP {
		return s.port
	}
	return 8000 + s.port%4 // few, so that services share backends' addresses and ports
}

func randomService(r *rand.Rand, i int) *modelService {
	s := &modelService{
		name: fmt.Sprintf("s%d", i), v6: i%2 == 1, proto: []tables.Protocol{tables.TCP, tables.TCP, tables.UDP, tables.SCTP}[r.IntN(4)],
		port: uint16(80 + i), nodePort: uint16(30000 + i), affinity: r.IntN(3) == 0, extLocal: r.IntN(3) == 0, intLocal: r.IntN(4) == 0,
		alg: []string{"random", "maglev", "least-connections"}[r.IntN(3)], clients: map[netip.Addr]*modelBackend{},
	}
	pick := func(v4, v6 string) netip.Addr {
		if s.v6 {
			return netip.MustParseAddr(fmt.Sprintf(v6, 1+r.IntN(6)))
		}
		return netip.MustParseAddr(fmt.Sprintf(v4, 1+r.IntN(6)))
	}
	// Services share addresses and differ by port.
	s.vip, s.extern, s.ingress = pick("10.96.0.%d", "fd00:96::%x"), pick("203.0.113.%d", "2001:db8:e::%x"), pick("203.0.114.%d", "2001:db8:f::%x")
	if r.IntN(2) == 0 {
		s.sources = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/30"), netip.MustParsePrefix("2001:db8:c::/126")}
	}
	for range r.IntN(5) {
		s.addBackend(r)
	}
	return s
}

func (s *modelService) addBackend(r *rand.Rand) {
	n := 1 + r.IntN(12)
	near := n%2 == 0 // an address lives on one node
	a := netip.MustParseAddr(fmt.Sprintf("10.244.%d.%d", n%2, n))
	if s.v6 {
		a = netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%x::%x", n%2, n))
	}
	if slices.ContainsFunc(s.backends, func(b *modelBackend) bool { return b.addr == a }) {
		return
	}
	s.backends = append(s.backends, &modelBackend{addr: a, port: s.targetPort(), ready: r.IntN(4) > 0, drain: r.IntN(2) == 0, near: near})
}

// mutate changes the endpoints of a service.
func (s *modelService) mutate(r *rand.Rand) {
	switch {
	case len(s.backends) == 0 || r.IntN(3) == 0:
		s.addBackend(r)
	case r.IntN(2) == 0:
		i := r.IntN(len(s.backends))
		s.backends[i].gone = true
		s.backends = slices.Delete(s.backends, i, i+1)
	default:
		b := s.backends[r.IntN(len(s.backends))]
		b.ready = !b.ready
		if !b.ready && !b.drain { // neither ready nor serving: as good as gone, and back as a new one
			b.gone = true
			s.backends = slices.DeleteFunc(s.backends, func(o *modelBackend) bool { return o == b })
		}
	}
}

// frame builds a packet by hand: gopacket would take most of the test's time.
func frame(buf []byte, p tuple, flags uint8) []byte {
	b := append(buf[:0], macB...)
	b = append(b, macA...)
	l4 := 8
	switch p.proto {
	case 6:
		l4 = 20
	case 132:
		l4 = 12
	}
	payload := 16
	var pseudo uint32
	if p.src.Is4() {
		b = append(b, 8, 0, 0x45, 0, 0, byte(20+l4+payload), 0, 1, 0x40, 0, 64, p.proto, 0, 0)
		b = append(b, p.src.AsSlice()...)
		b = append(b, p.dst.AsSlice()...)
		binary.BigEndian.PutUint16(b[24:], ^sum16(b[14:34], 0))
		pseudo = uint32(sum16(b[26:34], 0))
	} else {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(l4+payload), p.proto, 64)
		b = append(b, p.src.AsSlice()...)
		b = append(b, p.dst.AsSlice()...)
		pseudo = uint32(sum16(b[22:54], 0))
	}
	at := len(b)
	b = binary.BigEndian.AppendUint16(b, p.sport)
	b = binary.BigEndian.AppendUint16(b, p.dport)
	switch p.proto {
	case 6:
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 4, 0, 0, 0, 0, 0)
	case 17:
		b = append(b, 0, byte(l4+payload), 0, 0)
	default:
		b = append(b, 1, 2, 3, 4, 5, 6, 7, 8)
	}
	b = append(b, "sixteen payload."...)
	if off := map[uint8]int{6: 16, 17: 6}[p.proto]; off != 0 {
		sum := ^sum16(b[at:], pseudo+uint32(p.proto)+uint32(l4+payload))
		if sum == 0 {
			sum = 0xffff // zero would mean no checksum in UDP
		}
		binary.BigEndian.PutUint16(b[at+off:], sum)
	}
	return b
}

func sum16(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// unframe reads a packet's tuple and checks its checksums.
func unframe(b []byte) (tuple, error) {
	var t tuple
	var l4 []byte
	var pseudo uint32
	if binary.BigEndian.Uint16(b[12:]) == 0x0800 {
		ip := b[14:34]
		if sum16(ip, 0) != 0xffff {
			return t, fmt.Errorf("IPv4 header checksum")
		}
		t.proto = ip[9]
		t.src, t.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		l4 = b[34 : 14+int(binary.BigEndian.Uint16(ip[2:]))]
		pseudo = uint32(sum16(ip[12:20], 0))
	} else {
		ip := b[14:54]
		t.proto = ip[6]
		t.src, t.dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		l4 = b[54 : 54+int(binary.BigEndian.Uint16(ip[4:]))]
		pseudo = uint32(sum16(ip[8:40], 0))
	}
	if t.proto == 6 || t.proto == 17 {
		if s := sum16(l4, pseudo+uint32(t.proto)+uint32(len(l4))); s != 0xffff {
			return t, fmt.Errorf("transport checksum")
		}
	}
	if t.proto == 6 || t.proto == 17 || t.proto == 132 {
		t.sport, t.dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	}
	return t, nil
}

// modelPackets is how many random cases TestModel runs; over a million with all of CI.
const modelPackets = 1_050_000

// TestModel runs random packets, with random changes of the endpoints in between, through the programs and the model. XDP and tcx share connections, so each
// packet takes one of them at random.
func TestModel(t *testing.T) {
	n := modelPackets
	if testing.Short() {
		n = 50_000
	}
	ns := newNS(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	host, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = netns.Set(host)
		host.Close()
	}()
	if err := netns.Set(ns); err != nil {
		t.Fatal(err)
	}
	out := rigNetwork(t)
	seed := uint64(rand.Int64())
	t.Logf("seed %d", seed)
	for round := 0; n > 0; round++ {
		k := min(n, 70_000)
		modelRound(t, rand.New(rand.NewPCG(seed, uint64(round))), out, k)
		n -= k
	}
}

// rigNetwork gives the current namespace a way out: a veth device with routes and a known neighbour.
func rigNetwork(t testing.TB) (ifindex int) {
	t.Helper()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out"}, PeerName: "peer"}); err != nil {
		t.Fatal(err)
	}
	if err := setUp("peer", "203.0.115.1/32"); err != nil {
		t.Fatal(err)
	}
	if err := setUp("out", "192.0.2.1/24,2001:db8::1/64"); err != nil {
		t.Fatal(err)
	}
	for _, e := range []error{
		sysctl("net.ipv4.ip_forward", "1"), sysctl("net.ipv6.conf.all.forwarding", "1"), route("0.0.0.0/0", "192.0.2.250"), route("::/0", "2001:db8::fa"),
	} {
		if e != nil {
			t.Fatal(e)
		}
	}
	dev, err := netlink.LinkByName("out")
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range []string{"192.0.2.250", "2001:db8::fa"} {
		err := netlink.NeighSet(&netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: netip.MustParseAddr(ip).AsSlice(), HardwareAddr: macA})
		if err != nil {
			t.Fatal(err)
		}
	}
	return dev.Attrs().Index
}

func modelRound(t *testing.T, r *rand.Rand, out, packets int) {
	rig := newRig(t)
	if err := rig.xdp.Maps[loader.XDPMapXdpDevices].Put(uint32(out), uint32(out)); err != nil {
		t.Fatal(err)
	}
	m := &model{forward: map[tuple]*modelFlow{}, reply: map[tuple]*modelFlow{}}
	for i := range 24 {
		s := randomService(r, i)
		m.services = append(m.services, s)
		rig.apply(s.rows()...)
	}
	var flows []*modelFlow
	buf, outBuf := make([]byte, 0, 256), make([]byte, 512)
	for i := range packets {
		if r.IntN(500) == 0 {
			s := m.services[r.IntN(len(m.services))]
			s.mutate(r)
			rig.apply(s.rows()...)
		}
		if i%200 == 0 { // answers are limited per second; not what is tested here
			if err := rig.tcx.Maps["icmp_budgets"].Put(uint32(0), make([]uint64, ebpf.MustPossibleCPU())); err != nil {
				t.Fatal(err)
			}
		}
		s := m.services[r.IntN(len(m.services))]
		p := s.randomPacket(r)
		flags := []uint8{2, 2, 16, 16, 16, 24, 17, 4, 18}[r.IntN(9)]
		hook := "tcx"
		if r.IntN(2) == 0 {
			hook = "xdp"
		}
		if len(flows) > 0 && r.IntN(3) == 0 {
			f := flows[r.IntN(len(flows))]
			switch r.IntN(3) {
			case 0:
				p = f.in
			case 1: // the backend's answer, on the side where it comes
				p = f.out.reverse()
				if f.backend.near {
					hook = "out"
				}
			case 2: // another service, from the same client port
				p.src, p.sport = f.in.src, f.in.sport
				if p.src.Is6() != p.dst.Is6() {
					p = f.in
				}
			}
		}
		var want outcome
		var check func(tuple) error
		if hook == "out" {
			want, check = m.expectOut(p, flags)
		} else {
			want, check = m.expect(p, flags)
		}
		in := frame(buf, p, flags)
		got, packet, err := rig.hook(hook, in, outBuf)
		if err != nil {
			t.Fatal(err)
		}
		where := fmt.Sprintf("case %d, %s, service %s (%s), %v flags %#x", i, hook, s.name, s.alg, p, flags)
		if got == dropped && want == -1 && p.proto == 132 && m.portTaken(p) {
			continue // SCTP's checksum covers its ports: a taken one cannot be replaced
		}
		if got == answered || got == dropped || want == answered || want == dropped {
			if got != want {
				t.Fatalf("%s: outcome %d, want %d", where, got, want)
			}
			if got == answered {
				if a, err := unframe(packet); err != nil || a.dst != p.src || a.src != p.dst {
					t.Fatalf("%s: answer %v %v", where, a, err)
				}
			}
			continue
		}
		after, err := unframe(packet)
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		if want == untouched {
			if after != p || got != untouched && got != toNear {
				t.Fatalf("%s: became %v (outcome %d), want it untouched", where, after, got)
			}
			continue
		}
		if err := check(after); err != nil {
			t.Fatalf("%s: outcome %d: %v", where, got, err)
		}
		if hook != "out" {
			f := m.forward[p]
			if want == -1 {
				want = nearOrFar(f.backend)
				if len(flows) < 400 {
					flows = append(flows, f)
				} else {
					flows[r.IntN(len(flows))] = f
				}
			}
		}
		if got != want {
			t.Fatalf("%s: outcome %d, want %d", where, got, want)
		}
	}
}

func (s *modelService) randomPacket(r *rand.Rand) tuple {
	p := tuple{proto: uint8(s.proto), dport: s.port, sport: uint16(40000 + r.IntN(300))}
	if r.IntN(20) == 0 {
		p.proto = []uint8{6, 17, 132}[r.IntN(3)]
	}
	if r.IntN(15) == 0 {
		p.dport = uint16(r.IntN(65536))
	}
	switch r.IntN(9) {
	case 0, 1, 2:
		p.dst = s.vip
	case 3:
		p.dst = s.extern
	case 4, 5:
		p.dst = s.ingress
	case 6, 7:
		p.dst = node(s.vip)
		if p.dport == s.port {
			p.dport = s.nodePort
		}
	default: // nobody's
		p.dst = netip.MustParseAddr("192.0.2.99")
		if s.v6 {
			p.dst = netip.MustParseAddr("2001:db8::99")
		}
	}
	clients := []string{"198.51.100.%d", "198.51.100.%d", "10.244.7.%d"}
	if s.v6 {
		clients = []string{"2001:db8:c::%x", "2001:db8:c::%x", "fd00:10:244:7::%x"}
	}
	p.src = netip.MustParseAddr(fmt.Sprintf(clients[r.IntN(3)], 1+r.IntN(9)))
	return p
}

// hook runs a packet through a program and tells what became of it, in the model's words. A far backend is told from an answer by the caller.
func (r *rig) hook(name string, in, outBuf []byte) (outcome, []byte, error) {
	prog := map[string]*ebpf.Program{
		"tcx": r.tcx.Programs[loader.UplinkProgUplinkIn], "out": r.tcx.Programs[loader.UplinkProgUplinkOut], "xdp": r.xdp.Programs[loader.XDPProgUplinkXdp],
	}[name]
	opts := &ebpf.RunOptions{Data: in, DataOut: outBuf}
	v, err := prog.Run(opts)
	if err != nil {
		return 0, nil, err
	}
	packet := opts.DataOut
	reply := func() bool { // an answer goes back to the MAC it came from under the address it was sent to
		return string(packet[0:6]) == string(in[6:12]) && string(packet[6:12]) == string(in[0:6])
	}
	switch {
	case name == "xdp" && v == verdictXDPDrop, name != "xdp" && v == verdictTCDrop:
		return dropped, packet, nil
	case name == "xdp" && v == verdictXDPTx:
		return answered, packet, nil
	case name == "xdp" && v == 4:
		return toFar, packet, nil
	case name != "xdp" && v == verdictTCRedir:
		if reply() {
			return answered, packet, nil
		}
		return toFar, packet, nil
	case name == "xdp" && v == verdictXDPPass, name != "xdp" && v == verdictTCNext:
		return toNear, packet, nil
	}
	return 0, nil, fmt.Errorf("%s: verdict %d", name, v)
}
