// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"os"
	"path/filepath"
	"testing"
)

func FuzzCheckpoint(f *testing.F) {
	f.Add([]byte(`{"registered":{"r":["a"]},"given":{"u":{"app":{"r":{"Devices":["a"],"Response":{}}}}}}`))
	f.Add([]byte(`{"given":{"u":{"app":{"r":null}}}}`))
	f.Add([]byte(`{"given":null}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(dir, checkpointFile)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		state, err := readCheckpoint(file)
		if state.Given == nil {
			t.Fatal("no map to give from")
		}
		if err != nil && (len(state.Given) > 0 || len(state.Registered) > 0) {
			t.Errorf("a file that could not be read gave %+v", state)
		}
		for uid, containers := range state.Given {
			for name, resources := range containers {
				for resource, a := range resources {
					if a == nil || len(a.Devices) == 0 {
						t.Errorf("pod %s container %s has nothing of %s", uid, name, resource)
					}
				}
			}
		}
	})
}
