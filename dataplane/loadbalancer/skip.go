// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// skips keeps the map of the network namespaces whose sockets the hooks leave alone equal to what this node's pods ask for.
type skips struct {
	m    *ebpf.Map
	log  klog.Logger
	pods map[string]uint64 // pod -> cookie of its namespace, of those that opted out
}

func newSkips(m *ebpf.Map, log klog.Logger) *skips {
	return &skips{m: m, log: log, pods: map[string]uint64{}}
}

// set follows a change of a pod's row. The cookie of a namespace never changes and is never used again.
func (s *skips) set(pod *tables.LocalPod, deleted bool) {
	old, had := s.pods[pod.ID]
	var err error
	switch {
	case deleted || pod.NoSocketLB == 0:
		if had {
			delete(s.pods, pod.ID)
			if err = s.m.Delete(old); errors.Is(err, ebpf.ErrKeyNotExist) {
				err = nil
			}
		}
	case !had || old != pod.NoSocketLB:
		s.pods[pod.ID] = pod.NoSocketLB
		err = s.m.Put(pod.NoSocketLB, uint8(1))
	}
	if err != nil {
		s.log.Error(err, "keep socket hooks from a pod", "pod", pod.Namespace+"/"+pod.Name)
	}
}

// prune removes what an earlier agent left for pods that are gone.
func (s *skips) prune() error {
	want := map[uint64]bool{}
	for _, c := range s.pods {
		want[c] = true
	}
	var cookie uint64
	var one uint8
	var gone []uint64
	it := s.m.Iterate()
	for it.Next(&cookie, &one) {
		if !want[cookie] {
			gone = append(gone, cookie)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read map sock_skip: %w", err)
	}
	for _, c := range gone {
		if err := s.m.Delete(c); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove a namespace from map sock_skip: %w", err)
		}
	}
	return nil
}
