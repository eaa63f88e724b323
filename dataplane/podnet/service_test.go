// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/dataplane/route"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// TestServicesPerPacket runs the load balancer's per-packet side in the pods' programs, with no socket hook that would do it before them: pods whose sockets the hooks do not see,
// and everything from outside.
func TestServicesPerPacket(t *testing.T) {
	for name, shared := range map[string]bool{"native": true, "VXLAN": false} {
		for kernel, noTCX := range map[string]bool{"": false, " without tcx": true} {
			t.Run(name+kernel, func(t *testing.T) {
				t.Parallel()
				testServices(t, shared, noTCX)
			})
		}
	}
}

func testServices(t *testing.T, shared, noTCX bool) {
	c := newCluster(t, route.Auto, shared)
	// Backends by the addresses that the test's pods ask for.
	backends := map[string]map[bool]string{
		"near": {true: "10.244.0.50", false: "fd00:10:244::50"}, "far": {true: "10.244.1.60", false: "fd00:10:244:1::60"}, "self": {true: "10.244.0.70", false: "fd00:10:244::70"},
	}
	vip := map[string]map[bool]string{
		"near": {true: "10.96.0.1", false: "fd00:10:96::1"}, "far": {true: "10.96.0.2", false: "fd00:10:96::2"}, "self": {true: "10.96.0.3", false: "fd00:10:96::3"},
	}
	nodePort := map[string]uint16{"near": 30001, "far": 30002, "self": 30003}
	var services []*tables.Service
	var slices []*tables.EndpointSlice
	for what, node := range map[string]string{"near": "node0", "far": "node1", "self": "node0"} {
		s := &tables.Service{Name: tables.Name{Namespace: "default", Name: what}, Type: tables.NodePort}
		for _, p := range []tables.Protocol{tables.TCP, tables.UDP} {
			s.Ports = append(s.Ports, tables.ServicePort{Name: strings.ToLower(p.String()), Protocol: p, Port: 7, NodePort: nodePort[what]})
		}
		for _, is4 := range families {
			s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(vip[what][is4]))
			slices = append(slices, &tables.EndpointSlice{Name: tables.Name{Namespace: "default", Name: fmt.Sprint(what, "-", is4)}, Service: what, IPv6: !is4,
				Ports:     []tables.EndpointPort{{Name: "tcp", Protocol: tables.TCP, Port: 7}, {Name: "udp", Protocol: tables.UDP, Port: 7}},
				Endpoints: []tables.Endpoint{{Addr: netip.MustParseAddr(backends[what][is4]), NodeName: node, Conditions: tables.Ready | tables.Serving}}})
		}
		services = append(services, s)
	}
	for _, n := range c.nodes {
		n.cfg.Services, n.cfg.Slices, n.cfg.NoTCX = services, slices, noTCX
	}
	c.start()
	fixed := func(n *node, what string, extra map[string]any) *pod {
		t.Helper()
		p := &pod{node: n, ns: nettest.NewNS(t, "pod"), ip: map[bool]netip.Addr{}}
		p.rt = n.runtimeConf(what, p.ns)
		p.rt.CapabilityArgs = map[string]any{"ips": []string{backends[what][true], backends[what][false]}}
		for k, v := range extra {
			p.rt.CapabilityArgs[k] = v
		}
		if _, err := n.add(p.rt, "1.1.0"); err != nil {
			t.Fatal(err)
		}
		for _, is4 := range families {
			p.ip[is4] = netip.MustParseAddr(backends[what][is4])
			serve(t, p.ns, p.ip[is4])
		}
		return p
	}
	fixed(c.nodes[0], "near", map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 7, "protocol": "tcp"}, {"hostPort": 8080, "containerPort": 7, "protocol": "udp"}}})
	fixed(c.nodes[1], "far", nil)
	self := fixed(c.nodes[0], "self", nil)
	client := c.nodes[0].pod("client")
	nodeIP := map[bool]netip.Addr{}
	for _, a := range c.nodes[0].cfg.Nodes[0].InternalIPs {
		nodeIP[a.Is4()] = a
	}
	for family, is4 := range families {
		for _, network := range []string{"tcp", "udp"} {
			check := func(what string, from *nettest.NS, to netip.AddrPort, want string) {
				t.Helper()
				var got string
				var err error
				for range 5 { // neighbours, first reconciliation
					if got, err = askPort(from, network, to, 20000); err == nil {
						break
					}
					time.Sleep(200 * time.Millisecond)
				}
				if err != nil || want != "" && got != want {
					t.Errorf("%s %s %s: peer saw %q, want %q, %v", family, network, what, got, want, err)
				}
			}
			at := func(s string, port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(s), port) }
			check("pod to a service with a backend on its node", client.ns, at(vip["near"][is4], 7), client.ip[is4].String())
			check("pod to a service with a backend elsewhere", client.ns, at(vip["far"][is4], 7), client.ip[is4].String())
			check("pod to a service whose backend it is", self.ns, at(vip["self"][is4], 7), nodeIP[is4].String())
			check("outside to a node port, backend on that node", c.outside, netip.AddrPortFrom(nodeIP[is4], 30001), "")
			check("outside to a node port, backend elsewhere", c.outside, netip.AddrPortFrom(nodeIP[is4], 30002), nodeIP[is4].String())
			check("outside to a host port", c.outside, netip.AddrPortFrom(nodeIP[is4], 8080), "")
		}
		if out, err := ping(t, client.ns, netip.MustParseAddr(vip["far"][is4])); err != nil {
			t.Errorf("%s: a service answers ping: %v\n%s", family, err, out)
		}
		var err error
		client.ns.Do(func() {
			var conn net.Conn
			if conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr(vip["far"][is4]), 99).String(), 3*time.Second); err == nil {
				conn.Close()
			}
		})
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: a port that the service has not: %v", family, err)
		}
	}
	var paths []loadPath
	for family, is4 := range families {
		at := func(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
		paths = append(paths,
			loadPath{family + ", pod to a backend on its node", client.ns, at(netip.MustParseAddr(vip["near"][is4]), 7)},
			loadPath{family + ", pod to a backend elsewhere", client.ns, at(netip.MustParseAddr(vip["far"][is4]), 7)},
			loadPath{family + ", outside to a node port, backend elsewhere", c.outside, at(nodeIP[is4], 30002)})
	}
	killUnderLoad(t, c, paths)
}

// loadPath is a way to a service.
type loadPath struct {
	what string
	from *nettest.NS
	to   netip.AddrPort
}

// killUnderLoad ends every agent by SIGKILL three times and starts it again, each time reading everything anew, while connections are made, used and closed all the time. None may fail.
func killUnderLoad(t *testing.T, c *cluster, paths []loadPath) {
	t.Helper()
	var done atomic.Bool
	var wg sync.WaitGroup
	worked := make([]int, len(paths))
	failed := make([]error, len(paths))
	for i, p := range paths {
		wg.Go(func() {
			for !done.Load() && failed[i] == nil {
				if _, err := askPort(p.from, "tcp", p.to, 100); err != nil {
					failed[i] = err
				}
				worked[i]++
			}
		})
	}
	for range 3 {
		for _, n := range c.nodes {
			n.kill()
			n.start()
		}
	}
	done.Store(true)
	wg.Wait()
	for i, p := range paths {
		if failed[i] != nil {
			t.Errorf("%s: connection %d while agents were killed: %v", p.what, worked[i], failed[i])
		}
		if worked[i] < 20 {
			t.Errorf("%s: only %d connections: the test proves nothing", p.what, worked[i])
		}
		t.Logf("%s: %d connections", p.what, worked[i])
	}
}
