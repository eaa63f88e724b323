// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead/fairlead/dataplane/conntrack"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// TestVacated: a datagram flow ends with the frontend that it was sent to, be that an address of its own or a NodePort; flows to other frontends of the
// service go on, and so does one to a frontend that came back before the sweep.
func TestVacated(t *testing.T) {
	r := newRig(t)
	v := newVacated()
	r.rec.vacate = v.add
	s := svc("dns", 53, tables.UDP, "10.96.0.10")
	s.Type, s.Ports[0].NodePort = tables.NodePort, 30053
	s.ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8")}
	sl := slice("dns", tables.UDP, "10.244.0.3:5353")
	sl.Endpoints[0].NodeName = "n1"
	r.apply(s, sl)
	reaches := func(dst string, port uint16) bool {
		t.Helper()
		_, out := r.in(packet(t, "198.51.100.9", dst, &layers.UDP{SrcPort: 4000, DstPort: layers.UDPPort(port)}, gopacket.Payload("a question")))
		got, err := unframe(out)
		return err == nil && got.dst == netip.MustParseAddr("10.244.0.3")
	}
	targets := map[string]uint16{"10.96.0.10": 53, "203.0.113.7": 53, "203.0.113.8": 53, "192.0.2.1": 30053}
	for dst, port := range targets {
		if !reaches(dst, port) {
			t.Fatalf("%s:%d does not reach the backend", dst, port)
		}
	}
	next := *s
	next.Ports = []tables.ServicePort{s.Ports[0]}
	next.Type, next.Ports[0].NodePort, next.ExternalIPs = tables.ClusterIP, 0, nil
	r.apply(&next)
	again := next
	again.ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.8")}
	r.apply(&again)
	select {
	case <-v.wake:
	default:
		t.Error("no sweep was asked for")
	}
	life, err := conntrack.DefaultLifetimes()
	if err != nil {
		t.Fatal(err)
	}
	keys := v.take()
	served := func(k loader.BPFServiceKey) bool {
		var s loader.BPFService
		return r.rec.k.services.Lookup(k, &s) == nil
	}
	table := conntrack.Table{Map: r.maps[loader.BPFMapCtAny], Lifetimes: life, Gone: func(k *loader.BPFCtKey, e *loader.BPFCt) bool {
		return v.has(keys, k, e, served)
	}}
	if res, err := table.Sweep(conntrack.Now(), false); err != nil || res.Removed != 4 || res.Entries != 4 {
		t.Errorf("%+v %v: want both entries of 203.0.113.7 and of the NodePort removed, those of 10.96.0.10 and 203.0.113.8 kept", res, err)
	}
	for dst, port := range targets {
		want := dst == "10.96.0.10" || dst == "203.0.113.8"
		if got := reaches(dst, port); got != want {
			t.Errorf("to %s:%d afterwards: reaches the backend: %v, want %v", dst, port, got, want)
		}
	}
}
