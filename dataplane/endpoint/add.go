// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/cni/plugin"
	"github.com/fairlead/fairlead/cni/wire"
	"github.com/fairlead/fairlead/dataplane/ipam"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// add connects a pod. The caller holds the attachment's lock. On error nothing is left.
func (s *Server) add(ctx context.Context, key string, req *wire.Request, netns *os.File) (result *types100.Result, err error) {
	// An earlier ADD for the same attachment whose end nobody saw.
	if err := s.delLocked(ctx, key); err != nil {
		return nil, fmt.Errorf("remove what an earlier ADD left: %w", err)
	}
	pod := &tables.LocalPod{
		ID: key, Network: req.Network, ContainerID: req.ContainerID, IfName: req.IfName,
		Namespace: req.Args["K8S_POD_NAMESPACE"], Name: req.Args["K8S_POD_NAME"], UID: req.Args["K8S_POD_UID"],
		Created: time.Now().UTC(),
	}
	if b := req.Bandwidth; b != nil {
		pod.Bandwidth = tables.Bandwidth{InRate: b.IngressRate / 8, InBurst: b.IngressBurst / 8, OutRate: b.EgressRate / 8, OutBurst: b.EgressBurst / 8}
	}
	for _, m := range req.PortMappings {
		hp := tables.HostPort{HostPort: m.HostPort, PodPort: m.ContainerPort, Protocol: map[string]tables.Protocol{"tcp": tables.TCP, "udp": tables.UDP, "sctp": tables.SCTP}[m.Protocol]}
		if m.HostIP != "" {
			if hp.HostIP, err = netip.ParseAddr(m.HostIP); err != nil {
				return nil, types.NewError(types.ErrInvalidNetworkConfig, "invalid hostIP in portMappings", m.HostIP)
			}
		}
		pod.HostPorts = append(pod.HostPorts, hp)
	}
	if pod.NoSocketLB, err = optedOut(req.Annotations, netns); err != nil {
		return nil, err
	}
	undo := func() {
		if derr := s.delLocked(context.WithoutCancel(ctx), key); derr != nil {
			err = errors.Join(err, fmt.Errorf("undo: %w", derr))
		}
	}
	if len(req.PrevResult) > 0 {
		result, err = s.adopt(pod, req, netns)
	} else {
		result, err = s.create(pod, req, netns)
	}
	if err == nil {
		err = s.connect(ctx, pod)
	}
	if err != nil {
		undo()
		return nil, err
	}
	return result, nil
}

// AnnotationSocketLB on a pod, with the value "disabled", keeps the socket hooks from the pod's sockets: for pods whose traffic is another's (virtual machines, meshes). Their
// packets to services are translated one by one instead.
const AnnotationSocketLB = wire.AnnotationPrefix + "socket-lb"

// optedOut returns the cookie of a pod's network namespace if the pod's annotations ask for no socket translation, else 0.
func optedOut(annotations map[string]string, netns *os.File) (cookie uint64, err error) {
	switch v := annotations[AnnotationSocketLB]; v {
	case "", "enabled":
		return 0, nil
	case "disabled":
	default:
		return 0, types.NewError(types.ErrInvalidNetworkConfig, "invalid pod annotation", fmt.Sprintf("%s: %q is none of enabled, disabled", AnnotationSocketLB, v))
	}
	err = inNamespace(netns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("annotation %s: cookie of the pod's network namespace (Linux 5.14 or later is needed): %w", AnnotationSocketLB, err)
	}
	return cookie, nil
}

// create makes the pair and the addresses of a pod of our own.
func (s *Server) create(pod *tables.LocalPod, req *wire.Request, netns *os.File) (*types100.Result, error) {
	var want []netip.Addr
	for _, ip := range req.IPs {
		a, err := plugin.ParseIP(ip)
		if err != nil {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, "invalid address in ips", err.Error())
		}
		want = append(want, a)
	}
	ips, err := s.cfg.Pool.Allocate(pod.ID, want...)
	switch {
	case errors.Is(err, ipam.ErrExhausted):
		s.full(err)
		return nil, types.NewError(wire.ErrNoAddress, "no free pod address on this node", err.Error())
	case errors.Is(err, ipam.ErrTaken):
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "the address asked for cannot be given", err.Error())
	case err != nil:
		return nil, err
	}
	s.cfg.step(AddAddresses)
	pod.IPs, pod.Sole, pod.Netkit = ips, req.Last, s.netkit
	if pod.MAC, err = macFor(req.MAC); err != nil {
		return nil, err
	}
	if pod.HostMAC, err = macFor(""); err != nil {
		return nil, err
	}
	if pod.HostIf, err = newHostIf(); err != nil {
		return nil, err
	}
	// On disk before it exists: an agent that finds the file unfinished removes the pair.
	if err := s.save(pod); err != nil {
		return nil, err
	}
	s.cfg.step(AddFile)
	mtu := s.cfg.MTU()
	if pod.IfIndex, err = makePair(pod, netns, mtu); err != nil {
		return nil, err
	}
	s.cfg.step(AddPair)
	if pod.Sole {
		if err := s.rec.attachEarly(pod); err != nil {
			return nil, err
		}
		s.cfg.step(AddFilters)
	} // otherwise the reconciler attaches links at once: a plugin that comes later may need the qdisc's place
	if err := configureHost(pod); err != nil {
		return nil, err
	}
	s.cfg.step(AddHostSide)
	if err := configurePod(pod, netns); err != nil {
		return nil, err
	}
	s.cfg.step(AddPodSide)
	if err := s.finish(pod.ID); err != nil {
		return nil, err
	}
	s.cfg.step(AddFinished)
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Interfaces: []*types100.Interface{
		{Name: pod.HostIf, Mac: net.HardwareAddr(pod.HostMAC[:]).String(), Mtu: mtu},
		{Name: pod.IfName, Mac: net.HardwareAddr(pod.MAC[:]).String(), Mtu: mtu, Sandbox: req.Netns},
	}}
	inside := 1
	for _, a := range ips {
		gw := gateway(a)
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: &inside, Address: hostNet(a), Gateway: gw.AsSlice()})
		r.Routes = append(r.Routes, &types.Route{Dst: defaultNet(a), GW: gw.AsSlice()})
	}
	if req.DNS != nil {
		r.DNS = *req.DNS
	}
	return r, nil
}

// adopt takes on an interface that an earlier plugin of the chain made: its veth's host side gets our programs, its addresses become known. Nothing of it is changed.
func (s *Server) adopt(pod *tables.LocalPod, req *wire.Request, netns *os.File) (*types100.Result, error) {
	prev := new(types100.Result)
	if err := json.Unmarshal(req.PrevResult, prev); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult is no result", err.Error())
	}
	pod.Chained = true
	for i, ip := range prev.IPs {
		if ip == nil {
			continue
		}
		// Only this interface's addresses; a result that does not say which interface has them speaks of the only one.
		if n := ip.Interface; n != nil && (*n < 0 || *n >= len(prev.Interfaces) || prev.Interfaces[*n] == nil || prev.Interfaces[*n].Name != req.IfName) {
			continue
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, "prevResult has an address that is none", fmt.Sprintf("ips[%d]", i))
		}
		pod.IPs = append(pod.IPs, a.Unmap())
	}
	if len(pod.IPs) == 0 {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "chained after a plugin whose result has no address for "+req.IfName, "")
	}
	for _, a := range pod.IPs {
		if other, _, ok := s.cfg.Tables.LocalPods.Get(s.cfg.Tables.DB.ReadTxn(), tables.LocalPodByIP.Query(a)); ok && other.ID != pod.ID {
			return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("prevResult's address %s belongs to another pod of this node", a), other.ID)
		}
	}
	if err := inspectVeth(pod, netns); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "cannot chain after this plugin", err.Error())
	}
	if err := errors.Join(s.save(pod), s.finish(pod.ID)); err != nil {
		return nil, err
	}
	prev.CNIVersion = types100.ImplementedSpecVersion
	return prev, nil
}

// connect makes the pod known and waits until the kernel's tables say so.
func (s *Server) connect(ctx context.Context, pod *tables.LocalPod) error {
	txn := s.cfg.Tables.DB.WriteTxn(s.cfg.Tables.LocalPods)
	if _, _, err := s.cfg.Tables.LocalPods.Insert(txn, pod); err != nil {
		txn.Abort()
		return err
	}
	rev := s.cfg.Tables.LocalPods.Revision(txn)
	txn.Commit()
	return s.rec.wait(ctx, pod.ID, rev)
}

// del is delLocked for callers that do not hold the attachment's lock.
func (s *Server) del(ctx context.Context, key string) error {
	defer s.lock(key)()
	return s.delLocked(ctx, key)
}

// delPod is del for who decided on a pod that it saw: another that has come in its place, since the runtime tried again, stays.
func (s *Server) delPod(ctx context.Context, pod *tables.LocalPod) error {
	defer s.lock(pod.ID)()
	if !s.stillThere(pod) {
		return nil
	}
	return s.delLocked(ctx, pod.ID)
}

// stillThere says whether pod's row is the one that the caller saw. The caller holds the attachment's lock.
func (s *Server) stillThere(pod *tables.LocalPod) bool {
	now, _, ok := s.cfg.Tables.LocalPods.Get(s.cfg.Tables.DB.ReadTxn(), tables.LocalPodByID.Query(pod.ID))
	return ok && now == pod
}

// delLocked removes the pod: its interface, its row and with it everything else in the kernel, then its addresses, last its file. Removing an absent pod returns nil.
func (s *Server) delLocked(ctx context.Context, key string) error {
	// The device goes first and here, not by the reconciler: the kernel takes an RCU barrier's time for it, and pods that end together need not wait for each other's.
	if pod := s.load(key); pod != nil && pod.HostIf != "" && !pod.Chained {
		if err := removeLink(pod.HostIf); err != nil {
			return err
		}
		s.cfg.step(DelDevice)
	}
	txn := s.cfg.Tables.DB.WriteTxn(s.cfg.Tables.LocalPods)
	_, had, err := s.cfg.Tables.LocalPods.Delete(txn, &tables.LocalPod{ID: key})
	if err != nil {
		txn.Abort()
		return err
	}
	rev := s.cfg.Tables.LocalPods.Revision(txn)
	txn.Commit()
	if had {
		if err := s.rec.wait(ctx, key, rev); err != nil {
			return err
		}
	} else if pod := s.load(key); pod != nil && pod.HostIf != "" && !pod.Chained {
		// An ADD that did not get as far as its row: its pins may be there.
		if err := s.rec.removePair(pod.HostIf); err != nil {
			return err
		}
	}
	if _, err := s.cfg.Pool.Release(key); err != nil {
		return err
	}
	s.cfg.step(DelAddresses)
	if err := s.forget(key); err != nil {
		return err
	}
	s.cfg.step(DelFile)
	return nil
}

// check compares the pod with what ADD made.
func (s *Server) check(key string, req *wire.Request, netns *os.File) error {
	pod, _, ok := s.cfg.Tables.LocalPods.Get(s.cfg.Tables.DB.ReadTxn(), tables.LocalPodByID.Query(key))
	if !ok {
		return types.NewError(types.ErrUnknownContainer, "the node agent does not know this attachment", key)
	}
	bad := func(format string, args ...any) error {
		return types.NewError(wire.ErrCheckFailed, "attachment differs from what ADD made", fmt.Sprintf(format, args...))
	}
	prev := new(types100.Result)
	if err := json.Unmarshal(req.PrevResult, prev); err != nil {
		return types.NewError(types.ErrDecodingFailure, "prevResult is no result", err.Error())
	}
	for _, a := range pod.IPs {
		if !slices.ContainsFunc(prev.IPs, func(c *types100.IPConfig) bool { return c != nil && c.Address.IP.Equal(a.AsSlice()) }) {
			return bad("prevResult lacks the pod's address %s", a)
		}
	}
	if err := inspectPod(pod, netns); err != nil {
		return bad("%v", err)
	}
	if err := s.rec.verify(pod); err != nil {
		return bad("%v", err)
	}
	return nil
}

// newHostIf names a host side; the name is never used again, on this node or after a reboot.
func newHostIf() (string, error) {
	var tail [6]byte
	if _, err := rand.Read(tail[:]); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s%x", hostIfPrefix, tail), nil
}

// macFor returns the MAC asked for, or a random one that is locally administered.
func macFor(asked string) (mac [6]byte, err error) {
	if asked != "" {
		hw, err := net.ParseMAC(asked)
		if err != nil || len(hw) != 6 {
			return mac, types.NewError(types.ErrInvalidNetworkConfig, "invalid mac", asked)
		}
		copy(mac[:], hw)
		return mac, nil
	}
	if _, err := rand.Read(mac[:]); err != nil {
		return mac, err
	}
	mac[0] = mac[0]&^1 | 2
	return mac, nil
}
