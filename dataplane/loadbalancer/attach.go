// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// sockHooks are the programs of bpf/sock.c and where they attach.
var sockHooks = []struct {
	prog string
	at   ebpf.AttachType
}{
	{loader.SockProgSockRelease, ebpf.AttachCgroupInetSockRelease}, // first: a count that goes up must be able to go down
	{loader.SockProgSockRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
	{loader.SockProgSockRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
	{loader.SockProgSockGetpeername4, ebpf.AttachCgroupInet4GetPeername},
	{loader.SockProgSockGetpeername6, ebpf.AttachCgroupInet6GetPeername},
	{loader.SockProgSockConnect4, ebpf.AttachCGroupInet4Connect},
	{loader.SockProgSockConnect6, ebpf.AttachCGroupInet6Connect},
	{loader.SockProgSockSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
	{loader.SockProgSockSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
}

// load loads the socket programs and returns the shared maps.
func (b *balancer) load() (map[string]*ebpf.Map, error) {
	abi, err := loader.LoadBPF()
	if err != nil {
		return nil, err
	}
	maps, err := b.cfg.Loader.Load(abi, nil)
	if err != nil {
		return nil, err
	}
	b.colls = append(b.colls, maps)
	return maps.Maps, nil
}

// attach loads the programs with this node's constants and puts them in place of earlier ones.
func (b *balancer) attach() error {
	constants := loader.NodeConstants(loader.NodeFacts{NodeIPs: b.cfg.NodeIPs, PodCIDRs: b.cfg.PodCIDRs})
	if b.cfg.CgroupRoot != "" {
		spec, err := loader.LoadSock()
		if err != nil {
			return err
		}
		coll, err := b.cfg.Loader.Load(spec, constants)
		if err != nil {
			return fmt.Errorf("socket programs: %w", err)
		}
		b.colls = append(b.colls, coll)
		for _, h := range sockHooks {
			if err := b.cfg.Loader.AttachCgroup(coll.Programs[h.prog], h.at, b.cfg.CgroupRoot, h.prog); err != nil {
				return err
			}
		}
	}
	dsr, err := b.cfg.dsrConstant()
	if err != nil {
		return err
	}
	constants["cfg_dsr"] = dsr
	b.uplinks = &uplinkPrograms{constants: constants}
	return b.attachUplinks()
}
