// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/fairlead/fairlead/dataplane/conntrack"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

var errNoRows = errors.New("map backends is full")
var errNoSlots = errors.New("map slots is full")
var errNoIDs = errors.New("no service id is free")

// reconciler owns the maps. Not safe for concurrent use.
type reconciler struct {
	k        *kernel
	filter   filter // addresses with a services entry
	local    filter // addresses of backends on this node; only ever grows, since a backend that left may still answer connections it has
	rows     *rows
	ids      *rows
	runs     *runs
	services map[tables.Name]*serviceState
	// owner says which service has a frontend; losers wait for one that another service has.
	owner  map[loader.BPFServiceKey]tables.Name
	losers map[loader.BPFServiceKey]map[tables.Name]bool
	// addrs counts the frontends on each address, for the address entries; nodeAddrs are this node's own.
	addrs     map[loader.BPFAddr]int
	nodeAddrs map[loader.BPFAddr]bool

	// existing is what an earlier agent wrote; nil once the first full pass has adopted or pruned it.
	existing     map[loader.BPFServiceKey]loader.BPFService
	existingRows map[uint32][]uint32 // rows by service id
	takenIDs     map[uint32]bool
	takenRows    map[uint32]bool
	oldRuns      map[loader.BPFSlotRun]bool

	batch batch
	now   func() time.Time
	// gone is told of UDP backends that no longer keep connections; may be nil.
	gone func(netip.AddrPort)
	// vacate is told of frontends that are no longer in the kernel; may be nil.
	vacate func([]loader.BPFServiceKey)
}

// batch gathers one pass's writes; flush applies them in a harmless order.
type batch struct {
	putKeys   []loader.BPFServiceKey
	putValues []loader.BPFService
	putOwner  []tables.Name
	delKeys   []loader.BPFServiceKey
	delRows   []uint32
	delRuns   []runState
	delIDs    []uint32
	delRanges []loader.BPFSourceRangeKey
	delHere   []loader.BPFLocalBackendKey
	redo      map[tables.Name]bool
}

func newReconciler(k *kernel) *reconciler {
	return &reconciler{
		k: k, filter: filter{bits: k.filter}, local: filter{bits: k.local},
		rows: newRows(uint32(len(k.backends))), ids: newRows(1 << 24), runs: newRuns(uint32(len(k.slots))),
		services: map[tables.Name]*serviceState{}, owner: map[loader.BPFServiceKey]tables.Name{},
		losers: map[loader.BPFServiceKey]map[tables.Name]bool{},
		addrs:  map[loader.BPFAddr]int{}, nodeAddrs: map[loader.BPFAddr]bool{},
		now: time.Now,
	}
}

// adopt reads what an earlier agent left, so that ids and rows are kept by apply. Call finish after the first full apply.
func (r *reconciler) adopt() error {
	var err error
	if r.existing, err = r.k.dump(); err != nil {
		return err
	}
	r.existingRows, r.takenIDs, r.takenRows = map[uint32][]uint32{}, map[uint32]bool{}, map[uint32]bool{}
	r.oldRuns = map[loader.BPFSlotRun]bool{}
	// Until the first pass is through, numbers that the kernel holds are out of bounds for new allocations.
	var end uint32
	for _, s := range r.existing {
		for _, run := range []loader.BPFSlotRun{s.Out, s.In} {
			if run.Count == 0 {
				continue
			}
			r.oldRuns[run] = true
			end = max(end, run.Base+1<<class((run.Count+slotsPerElem-1)/slotsPerElem))
		}
		if s.Id != 0 && s.Id < r.ids.limit && !r.takenIDs[s.Id] {
			r.takenIDs[s.Id] = true
			r.ids.next = max(r.ids.next, s.Id+1)
		}
	}
	r.runs.reserve(end)
	for i := 1; i < len(r.k.backends); i++ {
		b := &r.k.backends[i]
		if b.Flags == 0 {
			continue
		}
		r.takenRows[uint32(i)] = true
		r.existingRows[b.Service] = append(r.existingRows[b.Service], uint32(i))
		r.rows.next = max(r.rows.next, uint32(i)+1)
	}
	return nil
}

// finish prunes what adopt found and apply did not claim, and lets its numbers be used again.
func (r *reconciler) finish() error {
	for key := range r.existing {
		if _, ok := r.owner[key]; !ok && !r.wantsAddress(key) {
			r.batch.delKeys = append(r.batch.delKeys, key)
		}
	}
	usedRows, usedIDs := map[uint32]bool{}, map[uint32]bool{}
	for _, s := range r.services {
		for _, p := range s.ports {
			usedIDs[p.id] = true
			for _, row := range p.rows {
				usedRows[row.row] = true
			}
		}
	}
	err := r.flush()
	now := r.now()
	for row := range r.takenRows {
		if !usedRows[row] {
			r.k.backends[row].Flags = 0
			r.rows.used++
			r.rows.release(row, now)
		}
	}
	for id := range r.takenIDs {
		if !usedIDs[id] {
			r.ids.used++
			r.ids.release(id, now)
		}
	}
	for run := range r.oldRuns {
		r.runs.release(run.Base, (run.Count+slotsPerElem-1)/slotsPerElem, now)
	}
	err = errors.Join(err, r.pruneHere())
	r.filter.sweep()
	if cerr := r.keepAnswering(); cerr != nil {
		return errors.Join(err, cerr)
	}
	r.local.sweep()
	r.existing, r.existingRows, r.takenIDs, r.takenRows, r.oldRuns = nil, nil, nil, nil, nil
	return err
}

// keepAnswering has the local filter hold the backends on this node that connections remember, be they endpoints still or not.
func (r *reconciler) keepAnswering() error {
	for _, m := range r.k.conntrack {
		keys, values := make([]loader.BPFCtKey, 4096), make([]loader.BPFCt, 4096)
		var cursor ebpf.MapBatchCursor
		for {
			n, err := m.BatchLookup(&cursor, keys, values, nil)
			for i := range n {
				if values[i].Flags&conntrack.FlagReply != 0 && values[i].Flags&conntrack.FlagOnNode != 0 {
					r.local.keep(keys[i].Saddr)
				}
			}
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				break
			}
			if err != nil {
				return fmt.Errorf("read connections: %w", err)
			}
		}
	}
	return nil
}

// expect makes room for n services, where there are none yet: growing maps step by step is a good part of a first pass.
func (r *reconciler) expect(n int) {
	if len(r.services) > 0 {
		return
	}
	r.services, r.owner = make(map[tables.Name]*serviceState, n), make(map[loader.BPFServiceKey]tables.Name, n)
	addrs := make(map[loader.BPFAddr]int, n)
	maps.Copy(addrs, r.addrs)
	r.addrs = addrs
}

// apply makes the kernel hold spec for the service name; an empty spec removes it. Writes are gathered until flush.
func (r *reconciler) apply(name tables.Name, spec serviceSpec) error {
	st := r.services[name]
	if st == nil {
		if len(spec.ports) == 0 {
			return spec.problems
		}
		st = &serviceState{ports: map[portID]*portState{}}
		r.services[name] = st
	}
	errs := []error{spec.problems}
	for i := range spec.ports {
		ps := &spec.ports[i]
		id := ps.id()
		if err := r.applyPort(name, st, id, ps); err != nil {
			errs = append(errs, fmt.Errorf("port %d/%s: %w", ps.port, ps.proto, err))
		}
	}
	for id, p := range st.ports {
		if !slices.ContainsFunc(spec.ports, func(ps portSpec) bool { return ps.id() == id }) {
			r.removePort(id, p)
			delete(st.ports, id)
		}
	}
	st.health = spec.health
	if len(st.ports) == 0 {
		delete(r.services, name)
	}
	return errors.Join(errs...)
}

func (r *reconciler) applyPort(name tables.Name, st *serviceState, id portID, spec *portSpec) error {
	p := st.ports[id]
	if p == nil {
		p = &portState{id: r.claimID(spec)}
		if p.id == 0 {
			return errNoIDs
		}
		st.ports[id] = p
	}
	p.name, p.algorithm = spec.name, spec.algorithm
	errs := []error{r.applyRows(p, spec)}
	errs = append(errs, r.applyRun(p, &p.cluster, spec, backendCluster), r.applyRun(p, &p.local, spec, backendLocalSet))
	errs = append(errs, r.applyRanges(p, spec.ranges), r.applyHere(p, spec.external()))
	var next []frontendState
	for _, f := range spec.frontends {
		if owner, taken := r.owner[f.key]; taken && owner != name {
			if r.losers[f.key] == nil {
				r.losers[f.key] = map[tables.Name]bool{}
			}
			r.losers[f.key][name] = true
			errs = append(errs, fmt.Errorf("%s address is already served by service %s", f.kind, owner))
			continue
		}
		if slices.ContainsFunc(next, func(o frontendState) bool { return o.key == f.key }) {
			continue // the same address given twice
		}
		next = append(next, frontendState{key: f.key, value: p.value(f.flags, spec), kind: f.kind})
	}
	for _, f := range next {
		at := slices.IndexFunc(p.frontends, func(o frontendState) bool { return o.key == f.key })
		if at >= 0 && p.frontends[at].value == f.value {
			continue
		}
		if at < 0 {
			r.addFrontend(f.key, name)
		}
		r.put(f.key, f.value, name)
	}
	for _, f := range p.frontends {
		if !slices.ContainsFunc(next, func(o frontendState) bool { return o.key == f.key }) {
			r.removeFrontend(f.key)
		}
	}
	p.frontends = next
	return errors.Join(errs...)
}

// value builds the services entry of a frontend with the given SERVICE_* flags.
func (p *portState) value(flags uint16, spec *portSpec) loader.BPFService {
	run := func(local bool) loader.BPFSlotRun {
		s := p.cluster
		if local {
			s = p.local
		}
		return loader.BPFSlotRun{Base: s.base, Count: s.count}
	}
	if spec.hasRemote {
		flags |= flagHasRemote
	}
	return loader.BPFService{
		Id: p.id, Flags: flags, Algorithm: uint8(spec.algorithm), Affinity: spec.affinity,
		Out: run(flags&flagOutLocal != 0), In: run(flags&flagInLocal != 0),
	}
}

// claimID returns the id that an earlier agent gave the service port, or a new one; 0 if none is left.
func (r *reconciler) claimID(spec *portSpec) uint32 {
	for _, f := range spec.frontends {
		if old, ok := r.existing[f.key]; ok && r.takenIDs[old.Id] {
			delete(r.takenIDs, old.Id)
			r.ids.used++
			return old.Id
		}
	}
	return r.ids.take()
}

// applyRows writes the backend rows of a service port. Rows of endpoints that left are cleared by flush, after the tables that list them.
func (r *reconciler) applyRows(p *portState, spec *portSpec) error {
	var err error
	next := make([]rowState, 0, len(spec.endpoints))
	i := 0
	for _, e := range spec.endpoints {
		for i < len(p.rows) && less(p.rows[i].endpoint, e) {
			r.dropRow(&p.rows[i], spec.proto)
			i++
		}
		if i < len(p.rows) && p.rows[i].addr == e.addr && p.rows[i].port == e.port {
			row := p.rows[i]
			i++
			if row.flags&backendLive != 0 && e.flags&backendLive == 0 {
				r.tellGone(&row, spec.proto)
			}
			row.endpoint = e
			if e.flags&backendOnNode != 0 {
				r.local.keep(loader.Addr(e.addr.As16()))
			}
			b := &r.k.backends[row.row]
			b.Flags, b.Weight = e.flags, e.weight
			next = append(next, row)
			continue
		}
		row := r.claimRow(p.id, e)
		if row == 0 {
			err = errNoRows
			continue
		}
		if e.flags&backendOnNode != 0 {
			r.local.keep(loader.Addr(e.addr.As16()))
		}
		next = append(next, rowState{endpoint: e, row: row, generation: r.k.backends[row].Generation})
	}
	for ; i < len(p.rows); i++ {
		r.dropRow(&p.rows[i], spec.proto)
	}
	p.rows = next
	return err
}

// dropRow has flush clear a row.
func (r *reconciler) dropRow(row *rowState, proto tables.Protocol) {
	r.batch.delRows = append(r.batch.delRows, row.row)
	r.tellGone(row, proto)
}

func (r *reconciler) tellGone(row *rowState, proto tables.Protocol) {
	if proto == tables.UDP && r.gone != nil {
		r.gone(netip.AddrPortFrom(row.addr, row.port))
	}
}

func less(a, b endpoint) bool {
	if c := a.addr.Compare(b.addr); c != 0 {
		return c < 0
	}
	return a.port < b.port
}

// claimRow finds the row that an earlier agent filled for the endpoint, or fills a new one.
func (r *reconciler) claimRow(id uint32, e endpoint) uint32 {
	want := loader.Addr(e.addr.As16())
	for _, row := range r.existingRows[id] {
		b := &r.k.backends[row]
		if r.takenRows[row] && b.Addr == want && b.Port == loader.Htons(e.port) {
			delete(r.takenRows, row)
			r.rows.used++
			b.Flags, b.Weight = e.flags, e.weight
			return row
		}
	}
	row := r.rows.take()
	if row == 0 {
		return 0
	}
	b := &r.k.backends[row]
	r.k.loads[row] = loader.BPFBackendLoad{}
	generation := b.Generation + 1
	b.Generation = generation // first: memory of the old tenant no longer matches
	b.Addr, b.Port, b.Service, b.Weight = want, loader.Htons(e.port), id, e.weight
	b.Flags = e.flags
	return row
}

// applyRun writes the selection table of those endpoints that have the flag, as a new run; the old one is released by flush.
// Without room it keeps the old table and says so.
func (r *reconciler) applyRun(p *portState, run *runState, spec *portSpec, flag uint8) error {
	var cands []candidate
	for i := range p.rows {
		if row := &p.rows[i]; row.flags&flag != 0 {
			cands = append(cands, candidate{row: row.row, hash: endpointHash(row.addr.As16(), row.port), weight: uint32(row.weight)})
		}
	}
	var size uint32
	if spec.hashed && len(cands) > 1 {
		if size = spec.tableSize; size == 0 {
			size = maglevSize(len(cands))
		}
		if int(size) <= len(cands) {
			size = MaglevSizes[len(MaglevSizes)-1]
		}
	}
	content := contentHash(cands, size)
	if run.content == content && (run.count > 0) == (len(cands) > 0) {
		return nil
	}
	var table []uint32
	switch {
	case len(cands) == 0:
	case size > uint32(len(cands)):
		table = maglev(size, cands)
	default:
		table = spread(cands)
	}
	next := runState{count: uint32(len(table)), content: content}
	if len(table) > 0 {
		next.base = r.runs.take(next.elems())
		if next.base == 0 {
			return errNoSlots
		}
		r.writeRun(next.base, table)
	}
	if run.count > 0 {
		r.batch.delRuns = append(r.batch.delRuns, *run)
	}
	*run = next
	return nil
}

func contentHash(cands []candidate, size uint32) uint64 {
	h := mix64(uint64(size) + 1)
	for _, c := range cands {
		h = mix64(h ^ uint64(c.row)<<32 ^ uint64(c.weight))
		h = mix64(h ^ c.hash)
	}
	return h
}

func (r *reconciler) writeRun(base uint32, table []uint32) {
	elems := (uint32(len(table)) + slotsPerElem - 1) / slotsPerElem
	flat := unsafe.Slice(&r.k.slots[base].Id[0], elems*slotsPerElem)
	copy(flat, table)
}

// applyRanges makes the source ranges of a service port those of want.
func (r *reconciler) applyRanges(p *portState, want []netip.Prefix) error {
	var err error
	for _, w := range want {
		if !slices.Contains(p.ranges, w) {
			if e := r.k.ranges.Put(rangeKey(p.id, w), uint32(1)); e != nil {
				err = fmt.Errorf("load balancer source range %s: %w", w, e)
			}
		}
	}
	for _, old := range p.ranges {
		if !slices.Contains(want, old) {
			r.batch.delRanges = append(r.batch.delRanges, rangeKey(p.id, old))
		}
	}
	p.ranges = want
	return err
}

func rangeKey(id uint32, p netip.Prefix) loader.BPFSourceRangeKey {
	n := uint32(p.Bits()) + 32
	if p.Addr().Is4() {
		n += 96
	}
	return loader.BPFSourceRangeKey{Prefixlen: n, Service: id, Addr: loader.Addr(p.Addr().As16())}
}

func (r *reconciler) removePort(id portID, p *portState) {
	for _, f := range p.frontends {
		r.removeFrontend(f.key)
	}
	for i := range p.rows {
		r.dropRow(&p.rows[i], id.proto)
	}
	for _, run := range []runState{p.cluster, p.local} {
		if run.count > 0 {
			r.batch.delRuns = append(r.batch.delRuns, run)
		}
	}
	for _, old := range p.ranges {
		r.batch.delRanges = append(r.batch.delRanges, rangeKey(p.id, old))
	}
	for _, old := range p.here {
		r.batch.delHere = append(r.batch.delHere, loader.BPFLocalBackendKey{Addr: old.addr, Service: p.id})
	}
	r.batch.delIDs = append(r.batch.delIDs, p.id)
}

func (r *reconciler) put(key loader.BPFServiceKey, value loader.BPFService, owner tables.Name) {
	r.batch.putKeys = append(r.batch.putKeys, key)
	r.batch.putValues = append(r.batch.putValues, value)
	r.batch.putOwner = append(r.batch.putOwner, owner)
}

// addFrontend registers a frontend's owner and its address.
func (r *reconciler) addFrontend(key loader.BPFServiceKey, name tables.Name) {
	r.owner[key] = name
	if isWildcard(key.Addr) {
		return
	}
	r.filter.add(key.Addr)
	if r.addrs[key.Addr]++; r.addrs[key.Addr] == 1 {
		r.putAddress(key.Addr)
	}
}

func (r *reconciler) removeFrontend(key loader.BPFServiceKey) {
	delete(r.owner, key)
	r.batch.delKeys = append(r.batch.delKeys, key)
	for name := range r.losers[key] {
		if r.batch.redo == nil {
			r.batch.redo = map[tables.Name]bool{}
		}
		r.batch.redo[name] = true
	}
	delete(r.losers, key)
	if isWildcard(key.Addr) {
		return
	}
	r.filter.remove(key.Addr)
	if r.addrs[key.Addr]--; r.addrs[key.Addr] == 0 {
		delete(r.addrs, key.Addr)
		r.putAddress(key.Addr)
	}
}

// setNodeAddrs makes the node's own addresses those given: NodePorts are valid on them.
func (r *reconciler) setNodeAddrs(addrs map[loader.BPFAddr]bool) {
	for a := range addrs {
		if !r.nodeAddrs[a] {
			r.nodeAddrs[a] = true
			r.filter.add(a)
			r.putAddress(a)
		}
	}
	for a := range r.nodeAddrs {
		if !addrs[a] {
			delete(r.nodeAddrs, a)
			r.filter.remove(a)
			r.putAddress(a)
		}
	}
}

// putAddress writes or removes the address entry of a.
func (r *reconciler) putAddress(a loader.BPFAddr) {
	key := loader.BPFServiceKey{Addr: a}
	switch {
	case r.nodeAddrs[a]:
		r.put(key, loader.BPFService{Flags: flagNode}, tables.Name{})
	case r.addrs[a] > 0:
		r.put(key, loader.BPFService{Flags: flagVIP}, tables.Name{})
	default:
		r.batch.delKeys = append(r.batch.delKeys, key)
	}
}

func (r *reconciler) wantsAddress(key loader.BPFServiceKey) bool {
	return key.Port == 0 && key.Proto == 0 && (r.nodeAddrs[key.Addr] || r.addrs[key.Addr] > 0)
}

func isWildcard(a loader.BPFAddr) bool {
	addr := netip.AddrFrom16(a.B)
	return addr.Unmap().IsUnspecified()
}

// flush applies the gathered writes. The error names the services that could not be written; the rest is. Deletions of what was put
// again in the same batch are skipped.
func (r *reconciler) flush() error {
	b := &r.batch
	now := r.now()
	var errs []error
	// The last write to a key wins; puts win over deletions of keys that are owned now.
	if err := r.putServices(b); err != nil {
		errs = append(errs, err)
	}
	var dels []loader.BPFServiceKey
	for _, k := range b.delKeys {
		if _, owned := r.owner[k]; !owned && !r.wantsAddress(k) {
			dels = append(dels, k)
		}
	}
	if err := deleteAll(r.k.services, dels); err != nil {
		errs = append(errs, err)
	}
	if r.vacate != nil && len(dels) > 0 {
		r.vacate(dels)
	}
	for _, k := range b.delRanges {
		if err := r.k.ranges.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("remove source range: %w", err))
		}
	}
	for _, k := range b.delHere {
		if err := r.k.here.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("remove local backend: %w", err))
		}
	}
	for _, row := range b.delRows {
		r.k.backends[row].Flags = 0
		r.rows.release(row, now)
	}
	for _, run := range b.delRuns {
		r.runs.release(run.base, run.elems(), now)
	}
	for _, id := range b.delIDs {
		r.ids.release(id, now)
	}
	r.batch = batch{redo: b.redo}
	r.rows.settle(now)
	r.ids.settle(now)
	r.runs.settle(now)
	return errors.Join(errs...)
}

// putServices writes the gathered entries, in one batch, or one by one if the batch fails.
func (r *reconciler) putServices(b *batch) error {
	if len(b.putKeys) == 0 {
		return nil
	}
	// The system call orders the stores to shared memory above before the entries that refer to them.
	if _, err := r.k.services.BatchUpdate(b.putKeys, b.putValues, nil); err == nil {
		return nil
	}
	var errs []error
	for i, k := range b.putKeys {
		if err := r.k.services.Put(k, b.putValues[i]); err != nil {
			name := b.putOwner[i]
			errs = append(errs, fmt.Errorf("service %s: write map services: %w", name, err))
			if b.redo == nil {
				b.redo = map[tables.Name]bool{}
			}
			b.redo[name] = true
			r.forget(name, k)
		}
	}
	return errors.Join(errs...)
}

// forget makes the next apply write the frontend again.
func (r *reconciler) forget(name tables.Name, key loader.BPFServiceKey) {
	st := r.services[name]
	if st == nil {
		return
	}
	for _, p := range st.ports {
		for i := range p.frontends {
			if p.frontends[i].key == key {
				p.frontends[i].value = loader.BPFService{}
			}
		}
	}
}

func deleteAll(m *ebpf.Map, keys []loader.BPFServiceKey) error {
	for len(keys) > 0 {
		n, err := m.BatchDelete(keys, nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from map services: %w", err)
		}
		keys = keys[min(n+1, len(keys)):] // the key at n was absent already: go on behind it
	}
	return nil
}
