// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"time"

	"github.com/vishvananda/netlink"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// A pod is swept when the runtime has not known its sandbox for sweepAfter, over at least two looks: a runtime lists a sandbox only some time after it asked for its network.
const sweepAfter = 2 * time.Minute

func (s *Server) sweepLoop(ctx context.Context) {
	log := klog.FromContext(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			log.Error(err, "Sweep of pod interfaces was not complete")
		}
		timer.Reset(s.cfg.SweepInterval)
	}
}

// Sweep looks for leaks once: pods without interface or sandbox, and things in the kernel or in the address log without a pod.
func (s *Server) Sweep(ctx context.Context) error {
	var errs []error
	var sandboxes map[string]bool
	if s.cfg.Sandboxes != nil {
		var err error
		if sandboxes, err = s.cfg.Sandboxes(ctx); err != nil {
			errs = append(errs, err)
			sandboxes = nil
		}
	}
	now := time.Now()
	for pod := range s.cfg.Tables.LocalPods.All(s.cfg.Tables.DB.ReadTxn()) {
		why := ""
		switch l, err := netlink.LinkByIndex(pod.IfIndex); {
		case errors.As(err, new(netlink.LinkNotFoundError)):
			why = "interface"
		case err == nil && l.Attrs().Name != pod.HostIf && !pod.Chained:
			why = "interface"
		case sandboxes != nil && s.unknown(pod, sandboxes, now):
			why = "sandbox"
		}
		if why == "" {
			continue
		}
		errs = append(errs, s.discard(ctx, pod, why))
	}
	// What is being made is no leak: look only while no request is in flight. A node is seldom busy for long, and there is a next time.
	s.freeze(func() {
		var pods []*tables.LocalPod
		known := map[string]bool{}
		for pod := range s.cfg.Tables.LocalPods.All(s.cfg.Tables.DB.ReadTxn()) {
			pods = append(pods, pod)
			known[pod.ID] = true
		}
		for owner := range s.cfg.Pool.Owners() {
			if !known[owner] {
				_, err := s.cfg.Pool.Release(owner)
				errs = append(errs, err)
				leaks.WithLabelValues("address").Inc()
			}
		}
		errs = append(errs, s.rec.prune(pods))
	})
	updateUsage(s.cfg.Pool.Usage())
	return errors.Join(errs...)
}

// discard removes a pod as the sweep saw it. Meanwhile a runtime may have connected the same attachment anew, as after an agent's death: then the row is another, and stays.
func (s *Server) discard(ctx context.Context, pod *tables.LocalPod, gone string) error {
	defer s.lock(pod.ID)()
	if !s.stillThere(pod) {
		return nil
	}
	klog.FromContext(ctx).Info("Removing a pod interface that nobody deleted", "id", pod.ID, "gone", gone)
	leaks.WithLabelValues("pod").Inc()
	return s.delLocked(ctx, pod.ID)
}

// freeze runs f while no request is in flight, or not at all.
func (s *Server) freeze(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.busy) == 0 {
		f()
	}
}

// unknown says whether pod's sandbox has been missing for long enough. Only the kubelet's pods are looked for: the node's CRI runtime knows nothing of a container that a person
// connected, by podman or cnitool.
func (s *Server) unknown(pod *tables.LocalPod, sandboxes map[string]bool, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pod.Namespace == "" || sandboxes[pod.ContainerID] || now.Sub(pod.Created) < sweepAfter {
		delete(s.absent, pod.ID)
		return false
	}
	since, ok := s.absent[pod.ID]
	if !ok {
		s.absent[pod.ID] = now
		return false
	}
	if now.Sub(since) < sweepAfter {
		return false
	}
	delete(s.absent, pod.ID)
	return true
}
