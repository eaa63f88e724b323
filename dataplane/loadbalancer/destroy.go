// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// destroyer ends connected UDP sockets whose backend went away: their owner's next call fails with ECONNABORTED, and clients such as resolvers open a new socket, which
// gets a live backend. A connected socket sends without asking the hooks, so nothing else would move it.
//
// It looks through the network namespaces of the processes below the cgroup, and touches only sockets that the socket hooks directed (map sock_revs, by cookie).
type destroyer struct {
	cgroup string
	revs   *ebpf.Map
	log    klog.Logger
	gone   chan netip.AddrPort
}

func newDestroyer(cgroup string, revs *ebpf.Map, log klog.Logger) *destroyer {
	return &destroyer{cgroup: cgroup, revs: revs, log: log, gone: make(chan netip.AddrPort, 4096)}
}

// backendGone tells of a UDP backend that takes and keeps no connections. Does not block; under a flood of them some sockets stay, and end with the next.
func (d *destroyer) backendGone(a netip.AddrPort) {
	select {
	case d.gone <- a:
	default:
	}
}

// run destroys sockets until ctx ends. Backends that go at about the same time share one pass.
func (d *destroyer) run(ctx context.Context) {
	for {
		gone := map[netip.AddrPort]bool{}
		select {
		case <-ctx.Done():
			return
		case a := <-d.gone:
			gone[a] = true
		}
		settle := time.After(20 * time.Millisecond)
	gather:
		for {
			select {
			case a := <-d.gone:
				gone[a] = true
			case <-settle:
				break gather
			}
		}
		if n, err := d.destroy(gone); err != nil {
			d.log.Error(err, "end UDP sockets of backends that left", "ended", n)
		} else if n > 0 {
			d.log.V(2).Info("ended UDP sockets of backends that left", "sockets", n)
		}
	}
}

// destroy ends the sockets connected to the backends in every namespace. It returns how many.
func (d *destroyer) destroy(gone map[netip.AddrPort]bool) (int, error) {
	total := 0
	var errs []error
	for _, path := range namespacesOf(d.cgroup) {
		n, err := inNamespace(path, func() (int, error) { return d.destroyHere(gone) })
		total += n
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
	}
	return total, errors.Join(errs...)
}

// namespacesOf returns a path for each network namespace that a process below the cgroup is in.
func namespacesOf(cgroup string) []string {
	seen := map[string]string{}
	_ = filepath.WalkDir(cgroup, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "cgroup.procs" {
			return nil // cgroups come and go while we look
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for _, pid := range strings.Fields(string(data)) {
			// By thread: runtimes that set up sandboxes have threads in other namespaces than their own.
			tasks, _ := filepath.Glob("/proc/" + pid + "/task/*/ns/net")
			for _, ns := range tasks {
				if id, err := os.Readlink(ns); err == nil && seen[id] == "" {
					seen[id] = ns
				}
			}
		}
		return nil
	})
	out := make([]string, 0, len(seen))
	for _, ns := range seen {
		out = append(out, ns)
	}
	return out
}

// inNamespace runs f on a thread in the network namespace at path. A namespace that is gone is no error.
func inNamespace(path string, f func() (int, error)) (int, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return 0, nil //nolint:nilerr // its last process has ended
	}
	defer ns.Close()
	type result struct {
		n   int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err := netns.Set(ns); err != nil {
			done <- result{0, err}
			return
		}
		n, err := f()
		done <- result{n, err}
	}()
	r := <-done
	return r.n, r.err
}

// destroyHere ends the sockets of the current namespace.
func (d *destroyer) destroyHere(gone map[netip.AddrPort]bool) (int, error) {
	n := 0
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		socks, err := netlink.SocketDiagUDP(family)
		if err != nil {
			errs = append(errs, fmt.Errorf("list UDP sockets: %w", err))
			continue
		}
		for _, s := range socks {
			a, _ := netip.AddrFromSlice(s.ID.Destination)
			peer := netip.AddrPortFrom(a.Unmap(), s.ID.DestinationPort)
			if !gone[peer] || !d.ours(s, peer) {
				continue
			}
			if err := destroySocket(family, s); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("end socket to %s: %w", peer, err))
				continue
			}
			n++
		}
	}
	return n, errors.Join(errs...)
}

// ours says whether the socket hooks directed the socket to this peer.
func (d *destroyer) ours(s *netlink.Socket, peer netip.AddrPort) bool {
	key := loader.BPFSockRevKey{
		Cookie: uint64(s.ID.Cookie[1])<<32 | uint64(s.ID.Cookie[0]), Addr: loader.Addr(peer.Addr().As16()), Port: loader.Htons(peer.Port()),
	}
	var rev loader.BPFSockRev
	return d.revs.Lookup(key, &rev) == nil
}

// destroyRequest is struct inet_diag_req_v2 of linux/inet_diag.h.
type destroyRequest struct {
	family uint8
	socket *netlink.Socket
}

func (r *destroyRequest) Len() int { return 56 }

func (r *destroyRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	id := r.socket.ID
	b[0], b[1] = r.family, unix.IPPROTO_UDP
	binary.NativeEndian.PutUint32(b[4:], 0xffffffff) // any state
	binary.BigEndian.PutUint16(b[8:], id.SourcePort)
	binary.BigEndian.PutUint16(b[10:], id.DestinationPort)
	src, dst := id.Source.To16(), id.Destination.To16()
	if r.family == unix.AF_INET {
		src, dst = id.Source.To4(), id.Destination.To4()
	}
	copy(b[12:28], src)
	copy(b[28:44], dst)
	binary.NativeEndian.PutUint32(b[44:], id.Interface)
	binary.NativeEndian.PutUint32(b[48:], id.Cookie[0])
	binary.NativeEndian.PutUint32(b[52:], id.Cookie[1])
	return b
}

func destroySocket(family uint8, s *netlink.Socket) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(&destroyRequest{family, s})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}
