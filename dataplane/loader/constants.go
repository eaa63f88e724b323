// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// NodeFacts are what programs know of their node at load time.
type NodeFacts struct {
	// NodeIPs are the addresses for source translation; the first of each family counts.
	NodeIPs []netip.Addr
	// PodCIDRs are the cluster's pod networks; the first of each family counts.
	PodCIDRs []netip.Prefix
}

// NodeConstants returns the constants of bpf/lib/config.h for Load: the node's facts and what the kernel can do.
func NodeConstants(f NodeFacts) map[string]any {
	c := map[string]any{
		"cfg_have_set_retval":   flag(HaveSetRetval()),
		"cfg_l4_csum_ipv6":      csumIPv6Flag(),
		"cfg_have_coarse_clock": flag(features.HaveProgramHelper(ebpf.SchedCLS, asm.FnKtimeGetCoarseNs) == nil),
	}
	for _, a := range f.NodeIPs {
		name := "cfg_node_ip6"
		if a.Unmap().Is4() {
			name = "cfg_node_ip4"
		}
		if _, ok := c[name]; !ok {
			c[name] = Addr(a.As16())
		}
	}
	for _, p := range f.PodCIDRs {
		net, mask, bits := "cfg_pod_net6", "cfg_pod_mask6", p.Bits()
		if p.Addr().Is4() {
			net, mask, bits = "cfg_pod_net4", "cfg_pod_mask4", bits+96
		}
		if _, ok := c[net]; !ok {
			var m [16]byte
			for i := range bits {
				m[i/8] |= 0x80 >> (i % 8)
			}
			c[net], c[mask] = Addr(p.Masked().Addr().As16()), Addr(m)
		}
	}
	return c
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
