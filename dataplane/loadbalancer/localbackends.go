// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/fairlead/fairlead/dataplane/loader"
)

// applyHere makes the map local_backends name the backends of a service port that run on this node, if clients outside may ask for it: other nodes may dispatch their packets here
// (bpf/lib/dsr.h). Of endpoints with the same address the first that lives counts.
func (r *reconciler) applyHere(p *portState, external bool) error {
	var next []localBackend
	for i := range p.rows {
		const want = backendOnNode | backendLive
		row := &p.rows[i]
		if !external || row.flags&want != want {
			continue
		}
		if e := (localBackend{loader.Addr(row.addr.As16()), row.row}); len(next) == 0 || next[len(next)-1].addr != e.addr {
			next = append(next, e)
		}
	}
	var err error
	kept := next[:0:0]
	for _, e := range next {
		if !slices.Contains(p.here, e) {
			if perr := r.k.here.Put(loader.BPFLocalBackendKey{Addr: e.addr, Service: p.id}, e.row); perr != nil {
				err = fmt.Errorf("write map local_backends: %w", perr)
				continue
			}
		}
		kept = append(kept, e)
	}
	for _, old := range p.here {
		if !slices.ContainsFunc(next, func(e localBackend) bool { return e.addr == old.addr }) {
			r.batch.delHere = append(r.batch.delHere, loader.BPFLocalBackendKey{Addr: old.addr, Service: p.id})
		}
	}
	p.here = kept
	return err
}

// pruneHere removes what an earlier agent left in local_backends and nobody claimed.
func (r *reconciler) pruneHere() error {
	wanted := map[loader.BPFLocalBackendKey]bool{}
	for _, s := range r.services {
		for _, p := range s.ports {
			for _, e := range p.here {
				wanted[loader.BPFLocalBackendKey{Addr: e.addr, Service: p.id}] = true
			}
		}
	}
	var stale []loader.BPFLocalBackendKey
	var k loader.BPFLocalBackendKey
	var row uint32
	it := r.k.here.Iterate()
	for it.Next(&k, &row) {
		if !wanted[k] {
			stale = append(stale, k)
		}
	}
	errs := []error{it.Err()}
	for _, k := range stale {
		if err := r.k.here.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("prune map local_backends: %w", err)
	}
	return nil
}
