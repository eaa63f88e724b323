// SPDX-License-Identifier: Apache-2.0

package apis

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// defaultsFile, testdata/defaults/<resource>.<version>[.<group>].yaml, tells what becomes of objects that leave much open. What is expected is
// written down from the API reference.
type defaultsFile []struct {
	Name  string         `json:"name"`
	Given map[string]any `json:"given"`
	Want  map[string]any `json:"want"` // the whole object
}

func TestDefaults(t *testing.T) {
	seen := 0
	for _, r := range All() {
		name := strings.TrimSuffix(r.GVR.Resource+"."+r.GVR.Version+"."+r.GVR.Group, ".") + ".yaml"
		text, err := os.ReadFile(filepath.Join("testdata", "defaults", name))
		if err != nil {
			continue
		}
		seen++
		t.Run(name, func(t *testing.T) {
			var f defaultsFile
			if err := yaml.UnmarshalStrict(text, &f); err != nil {
				t.Fatal(err)
			}
			for _, c := range f {
				t.Run(c.Name, func(t *testing.T) {
					got := tree(t, object(t, r, c.Given, nil))
					want := r.New()
					if text, err := json.Marshal(c.Want); err != nil {
						t.Fatal(err)
					} else if err := json.Unmarshal(text, want); err != nil {
						t.Fatal(err)
					}
					if d := cmp.Diff(tree(t, want), got); d != "" {
						t.Errorf("(-want +got):\n%s", d)
					}
				})
			}
		})
	}
	if files, _ := filepath.Glob("testdata/defaults/*.yaml"); len(files) != seen {
		t.Errorf("%d files, %d kinds found", len(files), seen)
	}
}

func tree(t *testing.T, obj resource.Object) map[string]any {
	t.Helper()
	text, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
