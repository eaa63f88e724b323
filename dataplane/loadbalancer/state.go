// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// portID names a service port of one family within its service.
type portID struct {
	proto tables.Protocol
	port  uint16
	v6    bool
}

func (ps *portSpec) id() portID { return portID{ps.proto, ps.port, ps.v6} }

// rowState is a backend row as written.
type rowState struct {
	endpoint
	row        uint32
	generation uint32
}

// runState is a slot run as written.
type runState struct {
	base, count uint32
	content     uint64 // hash of the table, to tell whether it changed
}

func (r runState) elems() uint32 { return (r.count + slotsPerElem - 1) / slotsPerElem }

const slotsPerElem = uint32(len(loader.BPFSlotElem{}.Id))

// frontendState is a services entry as written.
type frontendState struct {
	key   loader.BPFServiceKey
	value loader.BPFService
	kind  string
}

// portState is everything written for one service port.
type portState struct {
	id        uint32
	name      string
	algorithm Algorithm
	rows      []rowState // ordered by address and port
	cluster   runState
	local     runState
	frontends []frontendState
	ranges    []netip.Prefix
	here      []localBackend // in the order of rows
}

// localBackend is an entry of the map local_backends as written.
type localBackend struct {
	addr loader.BPFAddr
	row  uint32
}

// serviceState is everything written for one service.
type serviceState struct {
	ports  map[portID]*portState
	health uint16
}

// kernel is the maps as this package uses them.
type kernel struct {
	services *ebpf.Map
	ranges   *ebpf.Map
	here     *ebpf.Map // local_backends
	backends []loader.BPFBackend
	loads    []loader.BPFBackendLoad
	slots    []loader.BPFSlotElem
	filter   *loader.BPFVipBits // addresses with a services entry
	local    *loader.BPFVipBits // addresses of backends on this node
	// conntrack are the connection tables, read at start only.
	conntrack []*ebpf.Map
	unmap     []func() error
}

// openKernel maps the collection's arrays into memory. The collection must stay open as long as the result is used.
func openKernel(maps map[string]*ebpf.Map) (*kernel, error) {
	k := &kernel{
		services: maps[loader.BPFMapServices], ranges: maps[loader.BPFMapSourceRanges], here: maps[loader.BPFMapLocalBackends],
		conntrack: []*ebpf.Map{maps[loader.BPFMapCtTcp], maps[loader.BPFMapCtAny]},
	}
	var err error
	var un func() error
	if k.backends, un, err = loader.Shared[loader.BPFBackend](maps[loader.BPFMapBackends]); err != nil {
		return nil, err
	}
	k.unmap = append(k.unmap, un)
	if k.loads, un, err = loader.Shared[loader.BPFBackendLoad](maps[loader.BPFMapBackendLoads]); err != nil {
		return nil, errors.Join(err, k.close())
	}
	k.unmap = append(k.unmap, un)
	if k.slots, un, err = loader.Shared[loader.BPFSlotElem](maps[loader.BPFMapSlots]); err != nil {
		return nil, errors.Join(err, k.close())
	}
	k.unmap = append(k.unmap, un)
	f, un, err := loader.Shared[loader.BPFVipBits](maps[loader.BPFMapVipFilter])
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	k.filter = &f[0]
	k.unmap = append(k.unmap, un)
	if f, un, err = loader.Shared[loader.BPFVipBits](maps[loader.BPFMapLocalFilter]); err != nil {
		return nil, errors.Join(err, k.close())
	}
	k.local = &f[0]
	k.unmap = append(k.unmap, un)
	return k, nil
}

func (k *kernel) close() error {
	var errs []error
	for _, un := range k.unmap {
		errs = append(errs, un())
	}
	return errors.Join(errs...)
}

// dump reads all services entries.
func (k *kernel) dump() (map[loader.BPFServiceKey]loader.BPFService, error) {
	out := map[loader.BPFServiceKey]loader.BPFService{}
	const chunk = 4096
	keys := make([]loader.BPFServiceKey, chunk)
	values := make([]loader.BPFService, chunk)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := k.services.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			out[keys[i]] = values[i]
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read map services: %w", err)
		}
	}
}

// ticks converts a duration to the datapath's unit of 2^30 ns, rounding up.
func ticks(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32((d + 1<<30 - 1) >> 30)
}
