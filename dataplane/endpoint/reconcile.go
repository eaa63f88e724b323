// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/statedb"
	"github.com/vishvananda/netlink"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// reconciler owns what the rows of LocalPods mean in the kernel: the programs on each host side, the maps endpoints and bandwidths, and the host's routes.
type reconciler struct {
	cfg  Config
	coll *ebpf.Collection

	mu    sync.Mutex
	done  chan struct{} // closed and replaced after every round
	seen  statedb.Revision
	fails map[string]failure // rows whose last attempt failed, by ID

	links sync.Mutex          // held while pinned links change
	early map[string]hostSide // host sides whose programs are not on links yet, by name; see early.go
	added chan struct{}       // pokes settle
}

type failure struct {
	pod     *tables.LocalPod
	deleted bool
	err     error
	next    time.Time
	wait    time.Duration
}

// Retries of a failed row start after retryMin and double up to retryMax.
const (
	retryMin = 50 * time.Millisecond
	retryMax = 10 * time.Second
)

// The flags of struct endpoint, lib/endpoint.h.
const (
	flagChained  = 1
	flagLimitIn  = 2
	flagLimitOut = 4
	flagNetkit   = 8
)

func newReconciler(cfg Config) (*reconciler, error) {
	spec, err := loader.LoadPod()
	if err != nil {
		return nil, err
	}
	coll, err := cfg.Loader.Load(spec, cfg.Constants)
	if err != nil {
		return nil, err
	}
	return &reconciler{cfg: cfg, coll: coll, done: make(chan struct{}), fails: map[string]failure{}, early: map[string]hostSide{}, added: make(chan struct{}, 1)}, nil
}

func (r *reconciler) close() { r.coll.Close() }

// run applies changes until ctx ends. The first round is a prune: what no row stands for goes.
func (r *reconciler) run(ctx context.Context) {
	log := klog.FromContext(ctx)
	db, table := r.cfg.Tables.DB, r.cfg.Tables.LocalPods
	wtxn := db.WriteTxn(table)
	changes, err := table.Changes(wtxn)
	wtxn.Commit()
	if err != nil {
		log.Error(err, "Cannot watch the node's pods")
		return
	}
	for {
		txn := db.ReadTxn()
		iter, watch := changes.Next(txn)
		var rev statedb.Revision
		for c, at := range iter {
			rev = at
			r.apply(c.Object, c.Deleted)
		}
		wait := r.retry()
		r.round(max(rev, table.Revision(txn)))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-watch:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round tells waiters that every change up to rev was tried.
func (r *reconciler) round(rev statedb.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = max(r.seen, rev)
	close(r.done)
	r.done = make(chan struct{})
}

// wait returns when the change of id at rev has been tried, with its error.
func (r *reconciler) wait(ctx context.Context, id string, rev statedb.Revision) error {
	for {
		r.mu.Lock()
		seen, done, f := r.seen, r.done, r.fails[id]
		r.mu.Unlock()
		if seen >= rev {
			return f.err
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *reconciler) apply(pod *tables.LocalPod, deleted bool) {
	var err error
	if deleted {
		err = r.delete(pod)
	} else {
		err = r.update(pod)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.fails, pod.ID)
		return
	}
	f := r.fails[pod.ID]
	f.pod, f.deleted, f.err = pod, deleted, err
	f.wait = min(max(2*f.wait, retryMin), retryMax)
	f.next = time.Now().Add(f.wait)
	r.fails[pod.ID] = f
	failures.Inc()
}

// retry tries again what is due and returns the time until the next is.
func (r *reconciler) retry() time.Duration {
	wait := time.Minute
	r.mu.Lock()
	var due []failure
	for _, f := range r.fails {
		if d := time.Until(f.next); d > 0 {
			wait = min(wait, d)
		} else {
			due = append(due, f)
			wait = min(wait, retryMin)
		}
	}
	r.mu.Unlock()
	for _, f := range due {
		r.apply(f.pod, f.deleted)
	}
	return wait
}

func linkNames(hostIf string) (in, out string) {
	return "pod-" + hostIf + "-in", "pod-" + hostIf + "-out"
}

// update makes the kernel forward for pod. It is idempotent: after a restart it replaces the programs without a gap.
func (r *reconciler) update(pod *tables.LocalPod) error {
	endpoints, bandwidths := r.coll.Maps["endpoints"], r.coll.Maps["bandwidths"]
	ep := loader.NetEndpoint{Ifindex: uint32(pod.IfIndex), Mac: pod.MAC, HostMac: pod.HostMAC}
	if pod.Chained {
		ep.Flags |= flagChained
	}
	if pod.Netkit {
		ep.Flags |= flagNetkit
	}
	for dir, limit := range [][2]uint64{{pod.Bandwidth.InRate, pod.Bandwidth.InBurst}, {pod.Bandwidth.OutRate, pod.Bandwidth.OutBurst}} {
		key := loader.NetBandwidthKey{Ifindex: uint32(pod.IfIndex), Direction: uint32(dir)}
		if limit[0] == 0 {
			if err := bandwidths.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("remove bandwidth limit of %s: %w", pod.ID, err)
			}
			continue
		}
		ep.Flags |= []uint32{flagLimitIn, flagLimitOut}[dir]
		value := bucket(limit[0], limit[1])
		var have loader.NetBandwidth
		if err := bandwidths.Lookup(&key, &have); err == nil && have.Rate == value.Rate && have.Burst == value.Burst {
			continue
		}
		if err := bandwidths.Put(&key, &value); err != nil {
			return fmt.Errorf("set bandwidth limit of %s: %w", pod.ID, err)
		}
	}
	for _, a := range pod.IPs {
		key := loader.NetAddr{B: a.As16()}
		if err := endpoints.Put(&key, &ep); err != nil {
			return fmt.Errorf("add %s to the endpoint map: %w", a, err)
		}
		r.cfg.step(AddEntry)
	}
	if err := r.attach(pod); err != nil {
		return err
	}
	if pod.Chained {
		return nil
	}
	for _, a := range pod.IPs {
		if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: pod.IfIndex, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: net.HardwareAddr(pod.MAC[:])}); err != nil {
			return fmt.Errorf("add the pod %s as neighbour: %w", a, err)
		}
		dst := hostNet(a)
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: pod.IfIndex, Dst: &dst, Scope: netlink.SCOPE_LINK, Protocol: RouteProtocol}); err != nil {
			return fmt.Errorf("add the route to %s: %w", a, err)
		}
		r.cfg.step(AddRoute)
	}
	return nil
}

// attach makes sure that the pod's host side has this agent's programs.
func (r *reconciler) attach(pod *tables.LocalPod) error {
	r.links.Lock()
	defer r.links.Unlock()
	if _, ok := r.early[pod.HostIf]; ok {
		return nil
	}
	if pod.Sole && !r.cfg.Loader.HaveTCX() {
		return loader.AttachClassic(pod.IfIndex, r.coll.Programs["from_pod"], r.coll.Programs["to_pod"])
	}
	if err := r.attachLinks(pod.HostIf, sideOf(pod)); err != nil {
		return err
	}
	if pod.Sole {
		return loader.DetachClassic(pod.IfIndex) // an earlier agent ended before it moved its programs
	}
	return nil
}

// attachLinks puts the programs on a host side by pinned links, or replaces those that are there. The caller holds r.links.
func (r *reconciler) attachLinks(hostIf string, side hostSide) error {
	in, out := linkNames(hostIf)
	attach, fromPod, toPod := r.cfg.Loader.AttachTCX, ebpf.AttachTCXIngress, ebpf.AttachTCXEgress
	if side.netkit {
		attach, fromPod, toPod = r.cfg.Loader.AttachNetkit, ebpf.AttachNetkitPeer, ebpf.AttachNetkitPrimary
	}
	if err := attach(r.coll.Programs["from_pod"], side.ifindex, fromPod, in); err != nil {
		return err
	}
	r.cfg.step(AddLink)
	if err := attach(r.coll.Programs["to_pod"], side.ifindex, toPod, out); err != nil {
		return err
	}
	r.cfg.step(AddLinks)
	if side.netkit {
		return blackhole(side.ifindex)
	}
	return nil
}

// removePair deletes a host side, and with it its pod's interface, and the pins of its programs. The device goes first: a link without a device is given up without
// waiting for an RCU grace period.
func (r *reconciler) removePair(hostIf string) error {
	r.links.Lock()
	defer r.links.Unlock()
	delete(r.early, hostIf)
	err := removeLink(hostIf)
	return errors.Join(err, r.detach(hostIf))
}

// detach removes the pinned links of a host side. The caller holds r.links.
func (r *reconciler) detach(hostIf string) error {
	in, out := linkNames(hostIf)
	return errors.Join(r.cfg.Loader.Detach(in), r.cfg.Loader.Detach(out))
}

// RouteProtocol marks the kernel routes to the node's own pods (rtm_protocol).
const RouteProtocol = 179

// delete takes pod out of the kernel. Its interface goes too, unless another plugin owns it. Deleting what is not there is no error.
func (r *reconciler) delete(pod *tables.LocalPod) error {
	var errs []error
	if pod.Chained {
		r.links.Lock()
		errs = append(errs, r.detach(pod.HostIf))
		r.links.Unlock()
	} else {
		errs = append(errs, r.removePair(pod.HostIf))
	}
	r.cfg.step(DelLinks)
	for _, a := range pod.IPs {
		key := loader.NetAddr{B: a.As16()}
		var have loader.NetEndpoint
		// The entry may be another pod's by now, if this deletion comes late.
		if err := r.coll.Maps["endpoints"].Lookup(&key, &have); err == nil && have.Ifindex == uint32(pod.IfIndex) {
			errs = append(errs, ignoreAbsent(r.coll.Maps["endpoints"].Delete(&key)))
		}
		r.cfg.step(DelEntry)
	}
	for dir := range uint32(2) {
		errs = append(errs, ignoreAbsent(r.coll.Maps["bandwidths"].Delete(&loader.NetBandwidthKey{Ifindex: uint32(pod.IfIndex), Direction: dir})))
	}
	r.cfg.step(DelLimits)
	return errors.Join(errs...)
}

func ignoreAbsent(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// verify compares the kernel with pod.
func (r *reconciler) verify(pod *tables.LocalPod) error {
	l, err := netlink.LinkByIndex(pod.IfIndex)
	if err != nil || l.Attrs().Name != pod.HostIf {
		return fmt.Errorf("the host side %s is gone", pod.HostIf)
	}
	for _, a := range pod.IPs {
		var have loader.NetEndpoint
		if err := r.coll.Maps["endpoints"].Lookup(&loader.NetAddr{B: a.As16()}, &have); err != nil || have.Ifindex != uint32(pod.IfIndex) {
			return fmt.Errorf("the endpoint map lacks %s", a)
		}
	}
	if r.isEarly(pod.HostIf) || pod.Sole && !r.cfg.Loader.HaveTCX() {
		return nil
	}
	names, err := r.cfg.Loader.LinkNames()
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, n := range names {
		have[n] = true
	}
	if in, out := linkNames(pod.HostIf); !have[in] || !have[out] {
		return fmt.Errorf("programs are missing on %s", pod.HostIf)
	}
	return nil
}

// prune removes links, map entries and host interfaces that no row in pods stands for. The caller makes sure that no row comes or goes meanwhile.
func (r *reconciler) prune(pods []*tables.LocalPod) error {
	var errs []error
	hostIfs, ips, ifindexes := map[string]bool{}, map[netip.Addr]bool{}, map[uint32]bool{}
	for _, p := range pods {
		hostIfs[p.HostIf] = true
		ifindexes[uint32(p.IfIndex)] = true
		for _, a := range p.IPs {
			ips[a] = true
		}
	}
	names, err := r.cfg.Loader.LinkNames()
	errs = append(errs, err)
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		errs = append(errs, err)
	}
	for _, n := range names {
		rest, ok := strings.CutPrefix(n, "pod-")
		if ok && !hostIfs[strings.TrimSuffix(strings.TrimSuffix(rest, "-in"), "-out")] {
			errs = append(errs, r.cfg.Loader.Detach(n))
			leaks.WithLabelValues("link").Inc()
		}
	}
	var addr loader.NetAddr
	var ep loader.NetEndpoint
	var addrs []loader.NetAddr
	for it := r.coll.Maps["endpoints"].Iterate(); it.Next(&addr, &ep); {
		if !ips[netip.AddrFrom16(addr.B).Unmap()] {
			addrs = append(addrs, addr)
		}
	}
	for _, k := range addrs {
		errs = append(errs, ignoreAbsent(r.coll.Maps["endpoints"].Delete(&k)))
		leaks.WithLabelValues("endpoint").Inc()
	}
	var key loader.NetBandwidthKey
	var limit loader.NetBandwidth
	var keys []loader.NetBandwidthKey
	for it := r.coll.Maps["bandwidths"].Iterate(); it.Next(&key, &limit); {
		if !ifindexes[key.Ifindex] {
			keys = append(keys, key)
		}
	}
	for _, k := range keys {
		errs = append(errs, ignoreAbsent(r.coll.Maps["bandwidths"].Delete(&k)))
		leaks.WithLabelValues("bandwidth").Inc()
	}
	for _, l := range links {
		if name := l.Attrs().Name; isOurs(l) && !hostIfs[name] {
			errs = append(errs, removeLink(name))
			leaks.WithLabelValues("interface").Inc()
		}
	}
	return errors.Join(errs...)
}

// hostIfPrefix begins the name of every host side that this package makes; twelve hexadecimal digits follow.
const hostIfPrefix = "fl"

// isOurs says whether l is a host side that this package made: a pair with our kind of name.
func isOurs(l netlink.Link) bool {
	hex, ok := strings.CutPrefix(l.Attrs().Name, hostIfPrefix)
	return ok && (l.Type() == "veth" || l.Type() == "netkit") && len(hex) == 12 && strings.Trim(hex, "0123456789abcdef") == ""
}

// minBurst is what a bucket holds at least: a GSO packet must fit twice, or nothing would ever pass.
const minBurst = 256 << 10

// bucket returns a full one. The burst is at most a second's worth (see bandwidth_admit), and by default 100 ms worth.
func bucket(rate, burst uint64) loader.NetBandwidth {
	if burst == 0 {
		burst = rate / 10
	}
	burst = max(min(burst, rate), minBurst)
	return loader.NetBandwidth{Rate: rate, Burst: burst, Tokens: burst}
}
