// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/klog/v2/ktesting"
)

func startHere(t *testing.T, cfg Config) (*Store, context.Context) {
	t.Helper()
	_, ctx := ktesting.NewTestContext(t)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	s, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, ctx
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "store") // not t.TempDir: its path may be too long for a unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSnapshotAndRestore(t *testing.T) {
	dir := shortDir(t)
	cfg := Config{DataDir: filepath.Join(dir, "a")}
	s, ctx := startHere(t, cfg)
	for i := range 100 {
		if _, err := s.Client().Put(ctx, fmt.Sprintf("/k%03d", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "snapshot.db")
	status, err := SaveSnapshot(ctx, cfg, file)
	if err != nil {
		t.Fatal(err)
	}
	if status.Keys < 100 || status.Revision != 101 {
		t.Errorf("the snapshot has %d keys at revision %d, want 100 or more at 101", status.Keys, status.Revision)
	}
	if _, err := s.Client().Put(ctx, "/later", "v"); err != nil {
		t.Fatal(err)
	}
	if err := RestoreSnapshot(cfg, file); err == nil {
		t.Error("a snapshot was restored over a store that exists")
	}
	s.Close()

	restored := Config{DataDir: filepath.Join(dir, "b")}
	if err := RestoreSnapshot(restored, file); err != nil {
		t.Fatal(err)
	}
	s, ctx = startHere(t, restored)
	defer s.Close()
	r, err := s.Client().Get(ctx, "/k042")
	if err != nil || r.Count != 1 {
		t.Fatalf("after the restore /k042 is there %d times (%v), want once", r.Count, err)
	}
	if r.Header.Revision <= 102 {
		t.Errorf("the restored store is at revision %d: clients would take its writes for old ones", r.Header.Revision)
	}
	if r, err := s.Client().Get(ctx, "/later"); err != nil || r.Count != 0 {
		t.Errorf("what was written after the snapshot is there after the restore (%v)", err)
	}
	if _, err := StatusOfSnapshot(filepath.Join(dir, "no such file")); err == nil {
		t.Error("the status of a file that does not exist is no error")
	}
}

func TestMembers(t *testing.T) {
	s, ctx := startHere(t, Config{DataDir: shortDir(t), Name: "alone"})
	defer s.Close()
	members, err := Members(ctx, s.Client())
	if err != nil {
		t.Fatal(err)
	}
	if len(members) != 1 || members[0].Name != "alone" {
		t.Errorf("members are %+v, want alone", members)
	}
	if _, err := RemoveMember(ctx, s.Client(), members[0].ID); err == nil {
		t.Error("the only member was removed")
	}
}

// TestDirectClient sees that calls without a socket do the same as calls through it.
func TestDirectClient(t *testing.T) {
	s, ctx := startHere(t, Config{DataDir: shortDir(t)})
	defer s.Close()
	watch := s.Client().Watch(ctx, "/a")
	if _, err := s.Direct().Put(ctx, "/a", "1"); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-watch:
		if len(r.Events) != 1 || string(r.Events[0].Kv.Value) != "1" {
			t.Errorf("the watch through the socket saw %v", r.Events)
		}
	case <-ctx.Done():
		t.Error("the watch through the socket saw nothing")
	}
}
