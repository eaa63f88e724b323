// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

const checkpointFile = "fairlead_checkpoint"

// saved is what an agent that was killed must know.
type saved struct {
	// Registered are the devices of plugins by resource: what the node has of them, until they register again.
	Registered map[string][]string `json:"registered"`
	// Given is what containers have, by pod, container and resource.
	Given map[types.UID]map[string]map[string]*allocation `json:"given"`
}

// readCheckpoint returns an empty state when there is no file.
func readCheckpoint(file string) (saved, error) {
	out := saved{Given: map[types.UID]map[string]map[string]*allocation{}}
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return out, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		return saved{Given: map[types.UID]map[string]map[string]*allocation{}}, fmt.Errorf("devices that were given out before: %s: %w", file, err)
	}
	if out.Given == nil {
		out.Given = map[types.UID]map[string]map[string]*allocation{}
	}
	for _, containers := range out.Given {
		for _, resources := range containers {
			for name, a := range resources {
				if a == nil || len(a.Devices) == 0 {
					delete(resources, name)
				}
			}
		}
	}
	return out, nil
}

// checkpoint writes who has what, through to the disk: a device must not be given out twice after a crash.
func (m *Manager) checkpoint() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	m.mu.Lock()
	state := saved{Registered: map[string][]string{}, Given: m.given}
	for name, e := range m.endpoints {
		state.Registered[name] = slices.Sorted(maps.Keys(e.devices))
	}
	data, err := json.Marshal(state)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	name := filepath.Join(m.dir, checkpointFile)
	file, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("checkpoint of devices: %w", err)
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		return fmt.Errorf("checkpoint of devices: %w", err)
	}
	return nil
}
