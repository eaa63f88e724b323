// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"fmt"
	"maps"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// attachUplinks puts the packet programs on the devices where traffic from outside arrives.
func (b *balancer) attachUplinks(constants map[string]any) error {
	if len(b.cfg.Uplinks) == 0 {
		return nil
	}
	constants = maps.Clone(constants)
	if b.cfg.Overlay != "" {
		dev, err := netlink.LinkByName(b.cfg.Overlay)
		if err != nil {
			return fmt.Errorf("overlay device %s: %w", b.cfg.Overlay, err)
		}
		constants["cfg_vxlan_ifindex"] = uint32(dev.Attrs().Index)
	}
	spec, err := loader.LoadUplink()
	if err != nil {
		return err
	}
	tcx, err := b.cfg.Loader.Load(spec, constants)
	if err != nil {
		return fmt.Errorf("uplink programs: %w", err)
	}
	b.colls = append(b.colls, tcx)
	var xdp *ebpf.Collection
	for _, name := range b.cfg.Uplinks {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("uplink %s: %w", name, err)
		}
		index := dev.Attrs().Index
		if err := b.cfg.Loader.AttachTCXFirst(tcx.Programs[loader.UplinkProgUplinkOut], index, ebpf.AttachTCXEgress, "uplink_out-"+name); err != nil {
			return err
		}
		if err := b.cfg.Loader.AttachTCXFirst(tcx.Programs[loader.UplinkProgUplinkIn], index, ebpf.AttachTCXIngress, "uplink_in-"+name); err != nil {
			return err
		}
		if !b.wantXDP(dev) {
			if err := b.cfg.Loader.Detach("uplink_xdp-" + name); err != nil {
				return err
			}
			b.log.Info("uplink attached", "device", name, "mode", "tcx")
			continue
		}
		if xdp == nil {
			spec, err := loader.LoadXDP()
			if err != nil {
				return err
			}
			if xdp, err = b.cfg.Loader.Load(spec, constants); err != nil {
				return fmt.Errorf("XDP program: %w", err)
			}
			b.colls = append(b.colls, xdp)
		}
		mode, err := b.cfg.Loader.AttachXDP(xdp.Programs[loader.XDPProgUplinkXdp], index, "uplink_xdp-"+name)
		if err != nil {
			if b.cfg.XDP == "xdp" {
				return err
			}
			b.log.Info("uplink attached", "device", name, "mode", "tcx", "xdp", err.Error())
			continue
		}
		if mode == loader.XDPNative {
			if err := xdp.Maps[loader.XDPMapXdpDevices].Put(uint32(index), uint32(index)); err != nil {
				return fmt.Errorf("list %s as XDP device: %w", name, err)
			}
		}
		b.log.Info("uplink attached", "device", name, "mode", "xdp "+string(mode))
	}
	return nil
}

// wantXDP decides by Config.XDP. On veth, packets from the same host may carry checksums that a device was to finish, and after XDP_TX or redirect none will.
func (b *balancer) wantXDP(dev netlink.Link) bool {
	switch b.cfg.XDP {
	case "xdp":
		return true
	case "tcx":
		return false
	}
	return dev.Type() != "veth"
}
