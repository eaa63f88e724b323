// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// Device is the kind of pair that a new pod gets. Pods keep the one that they have.
type Device string

// The kinds of pairs. A netkit pair runs from_pod where the pod sends, without the queue that a veth pair puts between the pod and its host side.
const (
	DeviceAuto   Device = "auto" // netkit where the kernel has it, else veth
	DeviceVeth   Device = "veth"
	DeviceNetkit Device = "netkit"
)

// choose says whether new pods get netkit pairs. Without tcx, which is older, netkit is not asked for.
func (d Device) choose(tcx bool) (netkit bool, err error) {
	switch d {
	case DeviceVeth:
		return false, nil
	case DeviceAuto, "":
		return tcx && probeNetkit() == nil, nil
	case DeviceNetkit:
		if err := probeNetkit(); err != nil {
			return false, &loader.KernelError{Feature: "netkit devices whose MAC address can be chosen", MinKernel: "6.12", Err: err}
		}
		return true, nil
	}
	return false, fmt.Errorf("pod device %q: choose %s, %s or %s", d, DeviceAuto, DeviceVeth, DeviceNetkit)
}

// netkitPair is a pair of level 2: the pod has its MAC address and its gateways are permanent neighbours, as on veth. What the pod sends is let through until the programs are
// there, by blackhole.
func netkitPair(outer, inner netlink.LinkAttrs) *netlink.Netkit {
	pair := &netlink.Netkit{LinkAttrs: outer, Mode: netlink.NETKIT_MODE_L2, Policy: netlink.NETKIT_POLICY_FORWARD, PeerPolicy: netlink.NETKIT_POLICY_FORWARD,
		Scrub: netlink.NETKIT_SCRUB_DEFAULT, PeerScrub: netlink.NETKIT_SCRUB_DEFAULT}
	pair.SetPeerAttrs(&inner)
	return pair
}

// probeNetkit makes a pair like a pod's and deletes it.
func probeNetkit() error {
	name, err := newHostIf()
	if err != nil {
		return err
	}
	outerMAC, err := macFor("")
	if err != nil {
		return err
	}
	innerMAC, err := macFor("")
	if err != nil {
		return err
	}
	pair := netkitPair(netlink.LinkAttrs{Name: name, HardwareAddr: outerMAC[:]}, netlink.LinkAttrs{Name: name + "p", HardwareAddr: innerMAC[:]})
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make a netkit pair: %w", err)
	}
	return removeLink(name)
}

// blackhole makes the pair drop what the pod sends when no program is attached: a pod without its source check and policy has no network.
func blackhole(ifindex int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(ifindex)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("netkit"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_NETKIT_PEER_POLICY, nl.Uint32Attr(uint32(netlink.NETKIT_POLICY_BLACKHOLE)))
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("have device %d drop what no program has seen: %w", ifindex, err)
	}
	return nil
}
