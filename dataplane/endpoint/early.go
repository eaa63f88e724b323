// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Attaching a program to tcx or netkit waits for an RCU grace period under the kernel's RTNL lock, 10 ms or more each, and a pod has two. So an ADD, whose caller waits, attaches the programs as
// filters of a clsact qdisc, which waits for nothing; when no ADD has come for a while they move to links, which is where they stay: pinned, owned by nobody else, replaced atomically.
// For that moment both are there and run one after the other, which does no harm: the second finds what the first left it. See docs/decisions/0074.

// quiet is how long no ADD must have come before a pod's programs move: moving holds RTNL, which ADDs need too. patience is how long a move is put off at most.
const (
	quiet    = 100 * time.Millisecond
	patience = 5 * time.Second
)

// attachEarly puts the programs on a new host side that nobody but this package touches.
func (r *reconciler) attachEarly(pod *tables.LocalPod) error {
	ifindex := pod.IfIndex
	if !r.cfg.Loader.HaveTCX() {
		return loader.AttachClassic(ifindex, r.coll.Programs["from_pod"], r.coll.Programs["to_pod"]) // to stay
	}
	r.links.Lock()
	r.early[pod.HostIf] = sideOf(pod)
	r.links.Unlock()
	select {
	case r.added <- struct{}{}:
	default:
	}
	return loader.AttachClassic(ifindex, r.coll.Programs["from_pod"], r.coll.Programs["to_pod"])
}

// hostSide is the device that a pod's programs are attached by.
type hostSide struct {
	ifindex int
	netkit  bool
}

func sideOf(pod *tables.LocalPod) hostSide { return hostSide{pod.IfIndex, pod.Netkit} }

func (r *reconciler) isEarly(hostIf string) bool {
	r.links.Lock()
	defer r.links.Unlock()
	_, ok := r.early[hostIf]
	return ok
}

// settle moves programs to their tcx links until ctx ends. What is left then is moved by the next agent.
func (r *reconciler) settle(ctx context.Context) {
	log := klog.FromContext(ctx)
	var since time.Time // the first ADD after which nothing was moved yet
	for {
		hostIf, waiting := r.firstEarly()
		wait := time.Hour
		if waiting {
			if since.IsZero() {
				since = time.Now()
			}
			wait = max(0, min(quiet, patience-time.Since(since)))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.added:
			timer.Stop()
			continue
		case <-timer.C:
		}
		if !waiting {
			continue
		}
		if err := r.settleOne(hostIf); err != nil {
			// Its device went with the container, most likely: the deletion, or the sweep, ends it. The filters do their work meanwhile.
			log.V(1).Info("Cannot move a pod's programs to tcx links yet", "device", hostIf, "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(patience):
			}
		}
		since = time.Time{}
	}
}

func (r *reconciler) firstEarly() (string, bool) {
	r.links.Lock()
	defer r.links.Unlock()
	for hostIf := range r.early { // any: map order lets one that fails not stand in the way of the others
		return hostIf, true
	}
	return "", false
}

func (r *reconciler) settleOne(hostIf string) error {
	r.links.Lock()
	defer r.links.Unlock()
	side, ok := r.early[hostIf]
	if !ok {
		return nil // deleted
	}
	if err := r.attachLinks(hostIf, side); err != nil {
		return err
	}
	if err := loader.DetachClassic(side.ifindex); err != nil {
		return err
	}
	r.cfg.step(AddSettled)
	delete(r.early, hostIf)
	return nil
}
