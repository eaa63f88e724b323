// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/autopath"
	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/coredns/coredns/request"
)

var _ autopath.AutoPather = (*Handler)(nil)

// AutoPath makes `autopath @fairlead` work as `autopath @kubernetes` does: it returns the search list of the pod that asks, "" standing for the name itself, nil when the asker's
// address is not that of pods on this node which are all of one namespace. CoreDNS appends nothing to it, so the node's own list is here as well.
func (h *Handler) AutoPath(state request.Request) []string {
	ip, err := netip.ParseAddr(state.IP())
	if err != nil || plugin.Zones([]string{h.Zone.Domain}).Matches(state.Name()) == "" {
		return nil
	}
	v := h.Zone.Directory.Read()
	defer v.Done()
	pods := v.PodsAt(ip.WithZone("").Unmap())
	if len(pods) == 0 || !allIn(pods, pods[0].Namespace) {
		return nil
	}
	domain := h.Zone.Domain
	list := []string{dnsutil.Join(pods[0].Namespace, "svc", domain), dnsutil.Join("svc", domain), domain}
	return append(append(list, h.HostSearch...), "")
}
