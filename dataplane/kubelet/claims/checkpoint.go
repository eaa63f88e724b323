// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// readCheckpoint returns nothing when there is no file. Entries that name no pod or no claim are left out.
func readCheckpoint(file string) (map[types.UID]*held, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return map[types.UID]*held{}, nil
	}
	var out map[types.UID]*held
	if err == nil {
		out, err = parseCheckpoint(data)
	}
	if err != nil {
		return map[types.UID]*held{}, fmt.Errorf("resource claims that were prepared before: %s: %w", file, err)
	}
	return out, nil
}

func parseCheckpoint(data []byte) (map[types.UID]*held, error) {
	out := map[types.UID]*held{}
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, err
	}
	maps.DeleteFunc(out, func(uid types.UID, h *held) bool {
		return uid == "" || h == nil || h.Name == "" || h.Namespace == "" || len(h.Pods) == 0
	})
	for _, h := range out {
		if h.Drivers == nil {
			h.Drivers = map[string][]Device{}
		}
	}
	if out == nil { // the text was null
		out = map[types.UID]*held{}
	}
	return out, nil
}

// checkpoint writes who has what through to the disk; m.working is held.
func (m *Manager) checkpoint() error {
	m.mu.Lock()
	data, err := json.Marshal(m.held)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(m.file+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = file.Write(data)
		if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
			err = os.Rename(m.file+".new", m.file)
		}
	}
	if err != nil {
		return fmt.Errorf("checkpoint of resource claims: %w", err)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
