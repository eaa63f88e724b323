// SPDX-License-Identifier: Apache-2.0

// Package userns gives each pod that wants a user namespace of its own a range of the host's user and group ids that no other pod has. The range is
// written beside the pod's volumes, so an agent that starts again knows what is taken.
package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// Length is how many ids a pod has, and where ranges start: below are the host's own.
	Length = 65536
	file   = "userns"
)

// Ranges are the node's. Build it with New. Safe for concurrent use.
type Ranges struct {
	podDir func(types.UID) string
	most   int

	mu    sync.Mutex
	taken map[uint32]types.UID // by first id
	of    map[types.UID]uint32
}

// New reads what pods have: uids are those with a directory. most is how many ranges there are.
func New(podDir func(types.UID) string, uids []types.UID, most int) (*Ranges, error) {
	r := &Ranges{podDir: podDir, most: most, taken: map[uint32]types.UID{}, of: map[types.UID]uint32{}}
	var problems []error
	for _, uid := range uids {
		first, err := read(filepath.Join(podDir(uid), file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if other, twice := r.taken[first]; err == nil && twice {
			err = fmt.Errorf("pods %s and %s have the same user ids, from %d", other, uid, first)
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		r.taken[first], r.of[uid] = uid, first
	}
	return r, errors.Join(problems...)
}

// mapping is the file's content, in the form Kubernetes' kubelet writes.
type mapping struct {
	UIDs []idRange `json:"uidMappings"`
	GIDs []idRange `json:"gidMappings"`
}

type idRange struct {
	HostID      uint32 `json:"hostId"`
	ContainerID uint32 `json:"containerId"`
	Length      uint32 `json:"length"`
}

func read(name string) (uint32, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	var m mapping
	if err := json.Unmarshal(data, &m); err != nil {
		return 0, fmt.Errorf("user ids of a pod, %s: %w", name, err)
	}
	if len(m.UIDs) != 1 || len(m.GIDs) != 1 || m.UIDs[0] != m.GIDs[0] || m.UIDs[0].ContainerID != 0 || m.UIDs[0].Length != Length ||
		m.UIDs[0].HostID < Length || m.UIDs[0].HostID%Length != 0 {
		return 0, fmt.Errorf("user ids of a pod, %s: %s is not a range that was given out", name, data)
	}
	return m.UIDs[0].HostID, nil
}

// For returns the pod's mapping, a new one the first time; nil for a pod in the host's user namespace.
func (r *Ranges) For(pod *v1.Pod) (*runtimeapi.UserNamespace, error) {
	if pod.Spec.HostUsers == nil || *pod.Spec.HostUsers {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	first, ok := r.of[pod.UID]
	if !ok {
		var err error
		if first, err = r.take(pod.UID); err != nil {
			return nil, err
		}
	}
	ids := []*runtimeapi.IDMapping{{HostId: first, ContainerId: 0, Length: Length}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}, nil
}

func (r *Ranges) take(uid types.UID) (uint32, error) {
	for i := 1; i <= r.most; i++ {
		first := uint32(i) * Length
		if _, taken := r.taken[first]; taken {
			continue
		}
		one := []idRange{{HostID: first, Length: Length}}
		data, err := json.Marshal(mapping{UIDs: one, GIDs: one})
		if err != nil {
			return 0, err
		}
		dir := r.podDir(uid)
		name := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(dir, 0o750), os.WriteFile(name+".new", data, 0o600)); err != nil {
			return 0, fmt.Errorf("user ids for the pod: %w", err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			return 0, fmt.Errorf("user ids for the pod: %w", err)
		}
		r.taken[first], r.of[uid] = uid, first
		return first, nil
	}
	return 0, fmt.Errorf("all %d ranges of user ids are taken", r.most)
}

// Release gives a pod's range back; its file goes with its directory.
func (r *Ranges) Release(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first, ok := r.of[uid]; ok {
		delete(r.taken, first)
		delete(r.of, uid)
	}
}
