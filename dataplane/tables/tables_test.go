// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"net/netip"
	"testing"

	"github.com/cilium/statedb"
)

func TestIndexes(t *testing.T) {
	tb, err := New()
	if err != nil {
		t.Fatal(err)
	}
	w := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices, tb.Nodes)
	ip := netip.MustParseAddr
	_, _, err = tb.Services.Insert(w, &Service{Name: Name{"default", "web"}, ClusterIPs: []netip.Addr{ip("10.96.0.7"), ip("fd00::7")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*EndpointSlice{
		{Name: Name{"default", "web-1"}, Service: "web", Endpoints: []Endpoint{{Addr: ip("10.244.0.3")}, {Addr: ip("10.244.0.4")}}},
		{Name: Name{"default", "web-2"}, Service: "web", IPv6: true, Endpoints: []Endpoint{{Addr: ip("fd00:1::3")}}},
		{Name: Name{"default", "webx-1"}, Service: "webx", Endpoints: []Endpoint{{Addr: ip("10.244.0.3")}}},
		{Name: Name{"default", "orphan"}},
	} {
		if _, _, err := tb.EndpointSlices.Insert(w, s); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := tb.Nodes.Insert(w, &Node{Name: "n1", InternalIPs: []netip.Addr{ip("192.0.2.1")}}); err != nil {
		t.Fatal(err)
	}
	w.Commit()
	txn := tb.DB.ReadTxn()
	for _, a := range []string{"10.96.0.7", "fd00::7"} {
		if s, _, ok := tb.Services.Get(txn, ServiceByClusterIP.Query(ip(a))); !ok || s.Name.Name != "web" {
			t.Errorf("service by %s: %v %v", a, s, ok)
		}
	}
	if n := len(statedb.Collect(tb.EndpointSlices.List(txn, SliceByService.Query(Name{"default", "web"})))); n != 2 {
		t.Errorf("slices of web: %d, want 2", n)
	}
	if n := len(statedb.Collect(tb.EndpointSlices.List(txn, SliceByEndpoint.Query(ip("10.244.0.3"))))); n != 2 {
		t.Errorf("slices with 10.244.0.3: %d, want 2", n)
	}
	if n, _, ok := tb.Nodes.Get(txn, NodeByIP.Query(ip("192.0.2.1"))); !ok || n.Name != "n1" {
		t.Errorf("node by address: %v %v", n, ok)
	}
}
