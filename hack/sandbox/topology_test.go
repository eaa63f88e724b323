// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPlanGivesEveryHostItsOwnAddresses(t *testing.T) {
	for _, routed := range []bool{false, true} {
		topo, err := Plan(3, maxNodes-3, Families{IPv4: true, IPv6: true}, routed)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[netip.Addr]string{}
		for _, h := range topo.Hosts {
			if len(h.Addrs()) != 2 {
				t.Errorf("%s has addresses %v, want one per family", h.Name, h.Addrs())
			}
			for _, p := range h.Prefixes() {
				if other, dup := seen[p.Addr()]; dup {
					t.Errorf("%s and %s share %s", h.Name, other, p.Addr())
				}
				seen[p.Addr()] = h.Name
				if gw := h.Gateway(p.Addr()); !p.Masked().Contains(gw) {
					t.Errorf("%s: gateway %s is not on its link %s", h.Name, gw, p.Masked())
				}
			}
		}
		if got := len(topo.Nodes()); got != maxNodes {
			t.Errorf("%d nodes, want %d", got, maxNodes)
		}
	}
}

func TestPlanPutsRoutedNodesOnLinksOfTheirOwn(t *testing.T) {
	topo, err := Plan(1, 2, Families{IPv4: true}, true)
	if err != nil {
		t.Fatal(err)
	}
	links := map[netip.Prefix]bool{}
	for _, h := range topo.Nodes() {
		links[h.Prefixes()[0].Masked()] = true
		if h.IPv6.IsValid() {
			t.Errorf("%s has %s in an IPv4 sandbox", h.Name, h.IPv6)
		}
	}
	if len(links) != 3 {
		t.Errorf("3 routed nodes are on %d links", len(links))
	}
}

func TestPlanRefuses(t *testing.T) {
	v4 := Families{IPv4: true}
	for name, tc := range map[string]struct {
		servers, agents int
		fam             Families
		want            string
	}{
		"no server":       {0, 3, v4, "at least one server"},
		"even servers":    {2, 1, v4, "use 1, 3 or 5"},
		"negative agents": {1, -1, v4, "between 1 and"},
		"too many":        {1, maxNodes, v4, "between 1 and"},
		"no family":       {1, 1, Families{}, "neither IPv4 nor IPv6"},
	} {
		if _, err := Plan(tc.servers, tc.agents, tc.fam, false); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
	}
}
