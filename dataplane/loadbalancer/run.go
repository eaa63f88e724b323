// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/statedb"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/conntrack"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// retryAfter is how long services that could not be programmed wait for their next try; a change of theirs tries at once.
const retryAfter = 5 * time.Second

// pruneSkipsAfter is when the opt-outs of pods that ended while no agent ran are removed: a minute in which nobody else can get their cookies.
const pruneSkipsAfter = time.Minute

// Run programs services until ctx ends. The programs it attached and the maps it filled stay: traffic goes on without it.
// It attaches to devices and reads addresses of the calling thread's network namespace: call it with runtime.LockOSThread where threads differ.
func Run(ctx context.Context, cfg Config) error {
	b, err := newBalancer(ctx, cfg)
	if err != nil {
		return err
	}
	side, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var sweepErr error
	wg.Go(func() { sweepErr = b.sweep(side) })
	if cfg.CgroupRoot != "" {
		d := newDestroyer(cfg.CgroupRoot, b.maps[loader.BPFMapSockRevs], b.log)
		b.rec.gone = d.backendGone
		wg.Go(func() { d.run(side) })
	}
	err = b.run(ctx)
	cancel()
	wg.Wait()
	return errors.Join(err, sweepErr, b.close())
}

// balancer is Run's state.
type balancer struct {
	cfg     Config
	log     klog.Logger
	colls   []*ebpf.Collection
	maps    map[string]*ebpf.Map
	k       *kernel
	rec     *reconciler
	network <-chan network
	uplinks *uplinkPrograms
	health  *healthServers
	names   *namesWriter
	metrics *metrics
	zone    string
	failed  map[tables.Name]string
	vacated *vacated
	skips   *skips
	stop    []func()
}

func newBalancer(ctx context.Context, cfg Config) (*balancer, error) {
	if cfg.Tables == nil || cfg.Loader == nil {
		return nil, errors.New("load balancer: Tables and Loader are required")
	}
	b := &balancer{cfg: cfg, log: klog.FromContext(ctx).WithName("loadbalancer"), failed: map[tables.Name]string{}}
	var err error
	if b.maps, err = b.load(); err != nil {
		return nil, errors.Join(err, b.close())
	}
	if b.k, err = openKernel(b.maps); err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.rec = newReconciler(b.k)
	b.vacated = newVacated()
	b.skips = newSkips(b.maps[loader.BPFMapSockSkip], b.log)
	b.rec.vacate = b.vacated.add
	if err := b.rec.adopt(); err != nil {
		return nil, errors.Join(err, b.close())
	}
	network, stop, err := watchNetwork(b.log)
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.network = network
	b.stop = append(b.stop, stop)
	if err := b.attach(); err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.health = newHealthServers(b.log)
	b.names = newNamesWriter(&b.cfg, b.log)
	b.metrics = newMetrics(cfg.Registerer, b.maps, b.rec)
	b.stop = append(b.stop, b.health.close, b.names.close, b.metrics.close)
	return b, nil
}

// sweep keeps the connection tables in bounds.
func (b *balancer) sweep(ctx context.Context) error {
	life, err := conntrack.DefaultLifetimes()
	if err != nil {
		return err
	}
	rows := b.k.backends
	var vacated map[loader.BPFServiceKey]bool
	served := func(k loader.BPFServiceKey) bool {
		var s loader.BPFService
		return b.k.services.Lookup(k, &s) == nil
	}
	gone := func(k *loader.BPFCtKey, e *loader.BPFCt) bool {
		if int(e.Backend) >= len(rows) || len(vacated) > 0 && b.vacated.has(vacated, k, e, served) {
			return true
		}
		// A plain read beside the reconciler's writes: a wrong answer removes a datagram flow a sweep too early or too late.
		row := &rows[e.Backend]
		return row.Generation != e.Generation || row.Flags&backendLive == 0
	}
	return conntrack.Run(ctx, conntrack.Config{
		Tables: map[string]*conntrack.Table{
			"tcp": {Map: b.maps[loader.BPFMapCtTcp], TCP: true, Lifetimes: life},
			"any": {Map: b.maps[loader.BPFMapCtAny], Lifetimes: life, Gone: gone},
		},
		Wake:       b.vacated.wake,
		Before:     func() { vacated = b.vacated.take() },
		Registerer: b.cfg.Registerer,
	})
}

func (b *balancer) close() error {
	for i := len(b.stop) - 1; i >= 0; i-- {
		b.stop[i]()
	}
	var err error
	if b.k != nil {
		err = b.k.close()
	}
	for _, c := range b.colls {
		c.Close()
	}
	return err
}

// run watches the tables and keeps the kernel equal to them.
func (b *balancer) run(ctx context.Context) error {
	t := b.cfg.Tables
	w := t.DB.WriteTxn(t.Services, t.EndpointSlices, t.LocalPods, t.Answers)
	services, err := t.Services.Changes(w)
	if err == nil {
		defer services.Close()
	}
	epSlices, err2 := t.EndpointSlices.Changes(w)
	if err2 == nil {
		defer epSlices.Close()
	}
	pods, err3 := t.LocalPods.Changes(w)
	if err3 == nil {
		defer pods.Close()
	}
	answers, err4 := t.Answers.Changes(w)
	if err4 == nil {
		defer answers.Close()
	}
	w.Commit()
	if err := errors.Join(err, err2, err3, err4); err != nil {
		return fmt.Errorf("watch tables: %w", err)
	}
	// Nothing is removed before the tables hold all that the cluster has.
	for _, wait := range []statedb.TableMeta{t.Services, t.EndpointSlices} {
		for {
			ok, ch := wait.Initialized(t.DB.ReadTxn())
			if ok {
				break
			}
			select {
			case <-ctx.Done():
				return nil
			case <-ch:
			}
		}
	}
	first := true
	// Who keeps the pods' rows reads them from disk meanwhile: an opt-out that is there must not end for that moment.
	pruneSkips := time.After(pruneSkipsAfter)
	var retry <-chan time.Time
	slicesOf := map[tables.Name]tables.Name{} // slice -> service, to see a slice change hands
	for {
		txn := t.DB.ReadTxn()
		dirty := map[tables.Name]bool{}
		began := time.Now()
		changes, servicesWatch := services.Next(txn)
		for c := range changes {
			dirty[c.Object.Name] = true
		}
		sliceChanges, slicesWatch := epSlices.Next(txn)
		for c := range sliceChanges {
			s := c.Object
			dirty[s.ServiceName()] = true
			if old, ok := slicesOf[s.Name]; ok && old != s.ServiceName() {
				dirty[old] = true
			}
			if c.Deleted {
				delete(slicesOf, s.Name)
			} else {
				slicesOf[s.Name] = s.ServiceName()
			}
		}
		podChanges, podsWatch := pods.Next(txn)
		for c := range podChanges {
			dirty[HostPortsName(c.Object.ID)] = true
			b.skips.set(c.Object, c.Deleted)
		}
		answerChanges, answersWatch := answers.Next(txn)
		for c := range answerChanges {
			for s := range t.Services.List(txn, tables.ServiceByClusterIP.Query(c.Object.At.Addr())) {
				dirty[s.Name] = true
			}
		}
		node, _, nodeWatch, _ := t.Nodes.GetWatch(txn, tables.NodeByName.Query(b.cfg.NodeName))
		if node != nil && node.Zone != b.zone {
			b.zone = node.Zone
			for s := range t.Services.All(txn) {
				dirty[s.Name] = true
			}
		}
		for name := range b.rec.batch.redo {
			dirty[name] = true
		}
		b.rec.batch.redo = nil
		if retry == nil {
			for name := range b.failed {
				dirty[name] = true
			}
		}
		if first {
			select {
			case n := <-b.network:
				b.setAddrs(n.addrs)
			case <-ctx.Done():
				return nil
			}
		}
		b.sync(txn, dirty)
		if first {
			first = false
			if err := b.rec.finish(); err != nil {
				b.log.Error(err, "prune what an earlier agent left")
			}
			b.log.Info("services programmed", "services", len(b.rec.services), "took", time.Since(began))
			if b.cfg.OnSynced != nil {
				b.cfg.OnSynced()
			}
		}
		if len(dirty) > 0 {
			b.metrics.synced(len(dirty), time.Since(began))
		}
		if len(b.rec.batch.redo) > 0 && len(b.failed) == 0 {
			continue
		}
		if len(b.failed) > 0 {
			if retry == nil {
				retry = time.After(retryAfter)
			}
		} else {
			retry = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-servicesWatch:
		case <-slicesWatch:
		case <-podsWatch:
		case <-answersWatch:
		case <-nodeWatch:
		case <-retry:
			retry = nil
		case <-pruneSkips:
			if err := b.skips.prune(); err != nil {
				b.log.Error(err, "prune what an earlier agent left")
			}
		case n := <-b.network:
			if err := b.attachUplinks(); err != nil {
				b.log.Error(err, "attach to a new device")
			}
			b.setAddrs(n.addrs)
			if err := b.rec.flush(); err != nil {
				b.log.Error(err, "write node addresses")
			}
		}
	}
}

// sync brings the dirty services to the state of the snapshot.
func (b *balancer) sync(txn statedb.ReadTxn, dirty map[tables.Name]bool) {
	if len(dirty) == 0 {
		return
	}
	v := &view{txn: txn, tables: b.cfg.Tables, nodeName: b.cfg.NodeName, zone: b.zone, mode: b.cfg.Mode}
	names := slices.Collect(maps.Keys(dirty))
	b.rec.expect(len(names))
	for i, spec := range v.specs(names) {
		name := names[i]
		err := b.rec.apply(name, spec)
		if herr := b.health.set(name, spec.health, spec.localOK); herr != nil {
			err = errors.Join(err, herr)
		}
		b.report(name, err)
	}
	if err := b.rec.flush(); err != nil {
		b.log.Error(err, "write services")
	}
	for name := range b.rec.batch.redo {
		if b.rec.services[name] != nil && b.failed[name] == "" {
			b.failed[name] = "services map not written"
		}
	}
	b.names.update(txn, b.cfg.Tables, b.rec, dirty)
}

// report remembers that a service has a problem or no longer has, and tells the owner when that changes.
func (b *balancer) report(name tables.Name, err error) {
	was := b.failed[name]
	switch {
	case err == nil && was != "":
		delete(b.failed, name)
	case err != nil && err.Error() != was:
		b.failed[name] = err.Error()
		b.log.Info("service cannot be programmed as it says", "service", name.String(), "why", err.Error())
	default:
		return
	}
	if b.cfg.OnServiceError != nil {
		b.cfg.OnServiceError(name, err)
	}
}

func (b *balancer) setAddrs(addrs map[netip.Addr]bool) {
	set := map[loader.BPFAddr]bool{}
	for a := range addrs {
		if len(b.cfg.NodePortAddresses) > 0 {
			in := false
			for _, p := range b.cfg.NodePortAddresses {
				in = in || p.Contains(a)
			}
			if !in {
				continue
			}
		}
		set[loader.Addr(a.As16())] = true
	}
	b.rec.setNodeAddrs(set)
}
