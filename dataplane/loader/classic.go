// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AttachClassic puts two programs on a device of the current network namespace as filters of a clsact qdisc, in a millisecond: unlike tcx it waits for no RCU grace
// period. The device must have neither clsact nor ingress qdisc yet. Nothing is pinned: the filters last until DetachClassic or as long as the device.
// The programs of tcx links run before them; what those answer with TCX_NEXT goes through both.
func AttachClassic(ifindex int, ingress, egress *ebpf.Program) error {
	qdisc := clsact(ifindex)
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add a clsact qdisc to device %d: %w", ifindex, err)
	}
	for _, hook := range []struct {
		parent uint32
		prog   *ebpf.Program
	}{{netlink.HANDLE_MIN_INGRESS, ingress}, {netlink.HANDLE_MIN_EGRESS, egress}} {
		err := netlink.FilterReplace(&netlink.BpfFilter{
			FilterAttrs:  netlink.FilterAttrs{LinkIndex: ifindex, Parent: hook.parent, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
			Fd:           hook.prog.FD(),
			Name:         "fairlead",
			DirectAction: true,
		})
		if err != nil {
			return errors.Join(fmt.Errorf("add %s as filter to device %d: %w", hook.prog, ifindex, err), DetachClassic(ifindex))
		}
	}
	return nil
}

// DetachClassic removes the device's clsact (or ingress) qdisc with every filter. Removing an absent one returns nil.
func DetachClassic(ifindex int) error {
	err := netlink.QdiscDel(clsact(ifindex))
	// The kernel says EINVAL for a device without such a qdisc, ENOENT for one without any.
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("remove the clsact qdisc of device %d: %w", ifindex, err)
}

func clsact(ifindex int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}
