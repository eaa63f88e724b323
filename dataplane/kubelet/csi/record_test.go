// SPDX-License-Identifier: Apache-2.0

package csi

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRecordIsReadBackAndRemovedWithNothingElse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a[b]*", "pv")
	r := &record{Driver: "d", Spec: "pv", Handle: "h", Lifecycle: "Persistent", PodVolume: "v", Target: "/t", dir: dir}
	if err := r.write(); err != nil {
		t.Fatal(err)
	}
	found, err := readRecords(filepath.Join(escape(dir), recordFile))
	if err != nil || len(found) != 1 || *found[0] != *r {
		t.Fatalf("%v %v", found, err)
	}
	content := filepath.Join(dir, "content")
	if err := os.WriteFile(content, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.remove(); err == nil {
		t.Error("a directory with something in it was removed")
	}
	if err := os.Remove(content); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.remove(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDamagedRecordDoesNotHideOthers(t *testing.T) {
	root := t.TempDir()
	good := &record{Driver: "d", Handle: "h", Target: "/t", dir: filepath.Join(root, "good")}
	if err := good.write(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cut": `{"driverName":`, "relative": `{"driverName":"d","volumeHandle":"h","target":"t"}`, "empty": "{}"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name, recordFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := readRecords(filepath.Join(root, "*", recordFile))
	if err == nil || len(found) != 1 || found[0].Handle != "h" {
		t.Errorf("%v %v, want the good one and an error", found, err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"driverName":"d","specVolID":"pv","volumeHandle":"h","volumeLifecycleMode":"Persistent","target":"/t"}`))
	f.Add([]byte(`{"driverName":"d","volumeHandle":"h","target":"t"}`))
	f.Add([]byte("null"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(dir, recordFile)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := readRecords(file)
		if (err == nil) != (len(found) == 1) {
			t.Fatalf("%d records, %v", len(found), err)
		}
		for _, r := range found {
			if r.Driver == "" || r.Handle == "" || !filepath.IsAbs(r.Target) || r.dir != dir {
				t.Errorf("%+v was taken", r)
			}
		}
	})
}
