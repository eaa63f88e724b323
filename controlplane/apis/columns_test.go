// SPDX-License-Identifier: Apache-2.0

package apis

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// columnsFile, testdata/columns/<resource>.<version>[.<group>].yaml, tells for objects what kubectl get -o wide shows of them. The cells are
// joined with " | "; ages and other times are given as * and not compared.
type columnsFile struct {
	Header string `json:"header"`
	Rows   []struct {
		Name   string         `json:"name"`
		Object map[string]any `json:"object"`
		Cells  string         `json:"cells"`
	} `json:"rows"`
}

func TestColumns(t *testing.T) {
	files, err := filepath.Glob("testdata/columns/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, r := range All() {
		name := strings.TrimSuffix(r.GVR.Resource+"."+r.GVR.Version+"."+r.GVR.Group, ".") + ".yaml"
		text, err := os.ReadFile(filepath.Join("testdata", "columns", name))
		if err != nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			var f columnsFile
			if err := yaml.UnmarshalStrict(text, &f); err != nil {
				t.Fatal(err)
			}
			var header []string
			for _, c := range r.Columns {
				h := strings.ToUpper(c.Name)
				if c.Priority > 0 {
					h = "(" + h + ")"
				}
				header = append(header, h)
			}
			if got := strings.Join(header, " | "); got != f.Header {
				t.Errorf("header\n%s, want\n%s", got, f.Header)
			}
			for _, row := range f.Rows {
				t.Run(row.Name, func(t *testing.T) {
					obj := object(t, r, row.Object, nil)
					want := strings.Split(row.Cells, " | ")
					if len(want) != len(r.Columns) {
						t.Fatalf("%d cells for %d columns", len(want), len(r.Columns))
					}
					for i, c := range r.Columns {
						if got := fmt.Sprint(c.Value(obj)); want[i] != "*" && got != want[i] {
							t.Errorf("%s: %q, want %q", c.Name, got, want[i])
						}
					}
				})
			}
		})
	}
}
