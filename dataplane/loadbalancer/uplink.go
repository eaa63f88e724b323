// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// uplinkPrograms are the packet programs as loaded, and on which devices they are.
type uplinkPrograms struct {
	constants map[string]any
	overlay   int // ifindex they were loaded with; 0: none
	tcx, xdp  *ebpf.Collection
	on        map[string]int // device -> ifindex
}

// attachUplinks puts the packet programs on those uplinks that exist and do not have them. It is called again when a device appears; when it is the overlay
// device, the programs are replaced by ones that know it.
func (b *balancer) attachUplinks() error {
	u := b.uplinks
	if len(b.cfg.Uplinks) == 0 {
		return nil
	}
	overlay := 0
	if b.cfg.Overlay != "" {
		dev, err := netlink.LinkByName(b.cfg.Overlay)
		if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
			return fmt.Errorf("overlay device %s: %w", b.cfg.Overlay, err)
		}
		if err == nil {
			overlay = dev.Attrs().Index
		}
	}
	if u.tcx == nil || overlay != u.overlay {
		if err := b.loadUplink(overlay); err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range b.cfg.Uplinks {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				b.log.V(2).Info("uplink does not exist yet", "device", name)
				delete(u.on, name)
				continue
			}
			errs = append(errs, fmt.Errorf("uplink %s: %w", name, err))
			continue
		}
		if u.on[name] == dev.Attrs().Index {
			continue
		}
		if err := b.attachUplink(name, dev); err != nil {
			errs = append(errs, err)
			continue
		}
		u.on[name] = dev.Attrs().Index
	}
	// By the overlay come the answers of remote backends to what was source-translated here, and what pods of other nodes send to this node's ports.
	if overlay != 0 && u.on[b.cfg.Overlay] != overlay {
		if err := b.cfg.Loader.AttachTCXFirst(u.tcx.Programs[loader.UplinkProgUplinkIn], overlay, ebpf.AttachTCXIngress, "uplink_in-"+b.cfg.Overlay); err != nil {
			errs = append(errs, err)
		} else {
			u.on[b.cfg.Overlay] = overlay
		}
	}
	return errors.Join(errs...)
}

func (b *balancer) loadUplink(overlay int) error {
	u := b.uplinks
	constants := maps.Clone(u.constants)
	constants["cfg_vxlan_ifindex"] = uint32(overlay)
	spec, err := loader.LoadUplink()
	if err != nil {
		return err
	}
	tcx, err := b.cfg.Loader.Load(spec, constants)
	if err != nil {
		return fmt.Errorf("uplink programs: %w", err)
	}
	b.colls = append(b.colls, tcx)
	u.tcx, u.xdp, u.overlay, u.on = tcx, nil, overlay, map[string]int{}
	return nil
}

func (b *balancer) attachUplink(name string, dev netlink.Link) error {
	u, l, index := b.uplinks, b.cfg.Loader, dev.Attrs().Index
	if err := l.AttachTCXFirst(u.tcx.Programs[loader.UplinkProgUplinkOut], index, ebpf.AttachTCXEgress, "uplink_out-"+name); err != nil {
		return err
	}
	if err := l.AttachTCXFirst(u.tcx.Programs[loader.UplinkProgUplinkIn], index, ebpf.AttachTCXIngress, "uplink_in-"+name); err != nil {
		return err
	}
	if !b.wantXDP(dev) {
		b.log.Info("uplink attached", "device", name, "mode", "tcx")
		return l.Detach("uplink_xdp-" + name)
	}
	if u.xdp == nil {
		spec, err := loader.LoadXDP()
		if err != nil {
			return err
		}
		constants := maps.Clone(u.constants)
		constants["cfg_vxlan_ifindex"] = uint32(u.overlay)
		if dev.Type() == "veth" {
			constants["cfg_xdp_no_tx"] = uint8(1)
		}
		if u.xdp, err = l.Load(spec, constants); err != nil {
			return fmt.Errorf("XDP program: %w", err)
		}
		b.colls = append(b.colls, u.xdp)
	}
	mode, err := l.AttachXDP(u.xdp.Programs[loader.XDPProgUplinkXdp], index, "uplink_xdp-"+name)
	if err != nil {
		if b.cfg.XDP == "xdp" {
			return err
		}
		b.log.Info("uplink attached", "device", name, "mode", "tcx", "xdp", err.Error())
		return nil
	}
	if mode == loader.XDPNative {
		if err := u.xdp.Maps[loader.XDPMapXdpDevices].Put(uint32(index), uint32(index)); err != nil {
			return fmt.Errorf("list %s as XDP device: %w", name, err)
		}
	}
	b.log.Info("uplink attached", "device", name, "mode", "xdp "+string(mode))
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
