// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netns"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// TestAnsweredHereOrNot looks at which frontends are marked as answered at their own address.
func TestAnsweredHereOrNot(t *testing.T) {
	const vip, here, there = "10.96.0.10", "192.0.2.1:10053", "192.0.2.2:10053"
	at := netip.MustParseAddrPort(vip + ":53")
	servers := []netip.AddrPort{netip.MustParseAddrPort(here), netip.MustParseAddrPort("[2001:db8::1]:10053")}
	hinted := func(eps ...string) *tables.EndpointSlice {
		s := slice("dns", tables.UDP, eps...)
		for i := range s.Endpoints {
			s.Endpoints[i].NodeName = map[string]string{here: "n1", there: "n2"}[eps[i]]
			s.Endpoints[i].ForNodes = []string{s.Endpoints[i].NodeName}
		}
		return s
	}
	unhinted := func(eps ...string) *tables.EndpointSlice {
		s := hinted(eps...)
		for i := range s.Endpoints {
			s.Endpoints[i].ForNodes = nil
		}
		return s
	}
	unready := hinted(here, there)
	unready.Endpoints[0].Conditions = 0
	localOnly := svc("dns", 53, tables.UDP, vip)
	localOnly.InternalPolicy = tables.PolicyLocal
	for name, tc := range map[string]struct {
		service *tables.Service
		slice   *tables.EndpointSlice
		answer  *tables.Answer
		want    bool
	}{
		"all of this node's clients go to this node's server": {svc("dns", 53, tables.UDP, vip), hinted(here, there), &tables.Answer{At: at, Servers: servers}, true},
		"the only server": {svc("dns", 53, tables.UDP, vip), unhinted(here), &tables.Answer{At: at, Servers: servers}, true},
		"clients stay on their node by the service's policy": {localOnly, unhinted(here, there), &tables.Answer{At: at, Servers: servers}, true},
		"clients are spread over nodes":                      {svc("dns", 53, tables.UDP, vip), unhinted(here, there), &tables.Answer{At: at, Servers: servers}, false},
		"this node's server is not ready":                    {svc("dns", 53, tables.UDP, vip), unready, &tables.Answer{At: at, Servers: servers}, false},
		"the service has somebody else's server":             {svc("dns", 53, tables.UDP, vip), unhinted("10.244.0.9:10053"), &tables.Answer{At: at, Servers: servers}, false},
		"no endpoints":                                       {svc("dns", 53, tables.UDP, vip), nil, &tables.Answer{At: at, Servers: servers}, false},
		"no server answers":                                  {svc("dns", 53, tables.UDP, vip), unhinted(here), nil, false},
		"another port of the address":                        {svc("dns", 9153, tables.UDP, vip), unhinted(here), &tables.Answer{At: at, Servers: servers}, false},
		"another address":                                    {svc("dns", 53, tables.UDP, "10.96.0.11"), unhinted(here), &tables.Answer{At: at, Servers: servers}, false},
		"a protocol that it does not speak":                  {svc("dns", 53, tables.SCTP, vip), slice("dns", tables.SCTP, here), &tables.Answer{At: at, Servers: servers}, false},
		"a server of this node on another port":              {svc("dns", 53, tables.UDP, vip), unhinted("192.0.2.1:53"), &tables.Answer{At: at, Servers: servers}, false},
	} {
		t.Run(name, func(t *testing.T) {
			tb, err := tables.New()
			if err != nil {
				t.Fatal(err)
			}
			rows := []any{tc.service}
			if tc.slice != nil {
				rows = append(rows, tc.slice)
			}
			if tc.answer != nil {
				rows = append(rows, tc.answer)
			}
			putRows(t, tb, rows...)
			v := &view{txn: tb.DB.ReadTxn(), tables: tb, nodeName: "n1"}
			got := v.spec(tc.service.Name).ports[0].frontends[0].flags&flagHere != 0
			if got != tc.want {
				t.Errorf("marked: %t, want %t", got, tc.want)
			}
		})
	}
}

// TestPacketsAnsweredHere sends a pod's packets for the cluster DNS Service through from_pod: none is touched or remembered while the node answers at the Service's address; all are, while
// another node has to.
func TestPacketsAnsweredHere(t *testing.T) {
	ns := newNS(t) // without routes: the kernel is asked for none
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
	r := newRig(t)
	pod := r.load(loader.LoadPod)
	fromPod := pod.Programs["from_pod"]
	for _, fam := range []struct{ pod, vip, here, there string }{
		{"10.244.0.5", "10.96.0.10", "192.0.2.1:10053", "192.0.2.2:10053"},
		{"fd00:10:244::5", "fd00:96::10", "[2001:db8::1]:10053", "[2001:db8::2]:10053"},
	} {
		key, ep := loader.NetAddr{B: netip.MustParseAddr(fam.pod).As16()}, loader.NetEndpoint{Ifindex: 1} // lo's, where test runs come from
		if err := pod.Maps["endpoints"].Put(key, ep); err != nil {
			t.Fatal(err)
		}
		for proto, l4 := range map[tables.Protocol]map[string]gopacket.SerializableLayer{
			tables.UDP: {"question": &layers.UDP{SrcPort: 40000, DstPort: 53}},
			tables.TCP: {
				"SYN": syn(40000, 53), "ACK": &layers.TCP{SrcPort: 40000, DstPort: 53, ACK: true, Window: 1024}, "FIN": &layers.TCP{SrcPort: 40000, DstPort: 53, ACK: true, FIN: true, Window: 1024},
			},
		} {
			service := svc("dns-"+proto.String(), 53, proto, fam.vip)
			slice := slice("dns-"+proto.String(), proto, fam.here, fam.there)
			answer := &tables.Answer{At: netip.AddrPortFrom(netip.MustParseAddr(fam.vip), 53), Servers: []netip.AddrPort{netip.MustParseAddrPort(fam.here)}}
			// answeredBy has the Service's clients on this node go to one server.
			answeredBy := func(server string) {
				s := *slice
				s.Endpoints = nil
				for _, e := range slice.Endpoints {
					if e.Addr == netip.MustParseAddrPort(server).Addr() {
						s.Endpoints = append(s.Endpoints, e)
					}
				}
				row, a := *service, *answer
				r.apply(&row, &s, &a)
			}
			send := func(what string) tuple {
				t.Helper()
				verdict, out := r.run(fromPod, packet(t, fam.pod, fam.vip, l4[what], gopacket.Payload("who is where?")))
				if verdict != verdictTCNext {
					t.Fatalf("%s %s: verdict %d, want it to go on to the kernel", proto, what, verdict)
				}
				got, err := unframe(out)
				if err != nil {
					t.Fatalf("%s %s: %v", proto, what, err)
				}
				return got
			}
			first := map[tables.Protocol]string{tables.UDP: "question", tables.TCP: "SYN"}[proto]

			answeredBy(fam.here)
			for what := range l4 {
				if got := send(what); got.dst.String() != fam.vip || got.dport != 53 || got.src.String() != fam.pod || got.sport != 40000 {
					t.Errorf("%s %s: became %v:%d -> %v:%d, want it untouched", proto, what, got.src, got.sport, got.dst, got.dport)
				}
			}
			if n := r.entries(); n != 0 {
				t.Errorf("%s to %s: %d conntrack entries, want none", proto, fam.vip, n)
			}

			answeredBy(fam.there)
			want := netip.MustParseAddrPort(fam.there)
			if got := send(first); got.dst != want.Addr() || got.dport != want.Port() {
				t.Errorf("%s while another node answers: sent to %v:%d, want %s", proto, got.dst, got.dport, want)
			}
			if n := r.entries(); n != 2 {
				t.Errorf("%s while another node answers: %d conntrack entries, want one for each direction", proto, n)
			}

			answeredBy(fam.here) // which ends the other's row: what begins anew stays here
			if got := send(first); got.dst.String() != fam.vip {
				t.Errorf("%s when the node answers again: sent to %v, want %s", proto, got.dst, fam.vip)
			}
			if n := r.entries(); n > 1 { // the other direction's ends by time
				t.Errorf("%s when the node answers again: %d conntrack entries, want the packet's own gone", proto, n)
			}
			if proto == tables.TCP {
				if got := send("ACK"); got.dst.String() != fam.vip {
					t.Errorf("TCP segment after a SYN that stayed here: sent to %v, want %s", got.dst, fam.vip)
				}
			}
			r.forget()
		}
	}
}

func (r *rig) entries() (n int) {
	for _, m := range []string{loader.BPFMapCtTcp, loader.BPFMapCtAny} {
		var k loader.BPFCtKey
		var v loader.BPFCt
		for it := r.maps[m].Iterate(); it.Next(&k, &v); {
			n++
		}
	}
	return n
}

// forget empties conntrack.
func (r *rig) forget() {
	r.t.Helper()
	for _, m := range []string{loader.BPFMapCtTcp, loader.BPFMapCtAny} {
		var keys []loader.BPFCtKey
		var k loader.BPFCtKey
		var v loader.BPFCt
		for it := r.maps[m].Iterate(); it.Next(&k, &v); {
			keys = append(keys, k)
		}
		for _, k := range keys {
			if err := r.maps[m].Delete(k); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}
