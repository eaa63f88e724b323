// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestPutAndDrain(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "q"))
	lock, err := d.Lock(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	for _, id := range []string{"a", "b", "a"} {
		if err := d.Put(Entry{ContainerID: id, IfName: "eth0", Network: "n"}); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(string(d), "torn.json"), []byte(`{"containerID":"c`), 0o600)
	os.WriteFile(filepath.Join(string(d), ".new-1"), nil, 0o600)
	seen := map[string]int{}
	if err := d.Drain(func(e Entry) error {
		seen[e.ContainerID]++
		if e.ContainerID == "b" {
			return errors.New("not now")
		}
		return nil
	}); err == nil {
		t.Error("a failed deletion must be reported")
	}
	if len(seen) != 2 || seen["a"] != 1 || seen["b"] != 1 {
		t.Errorf("drained %v", seen)
	}
	seen = map[string]int{}
	if err := d.Drain(func(e Entry) error { seen[e.ContainerID]++; return nil }); err != nil || len(seen) != 1 || seen["b"] != 1 {
		t.Errorf("the failed one stays, and only it: %v, %v", seen, err)
	}
	if left, _ := os.ReadDir(string(d)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if err := Dir(filepath.Join(t.TempDir(), "none")).Drain(nil); err != nil {
		t.Error("a queue that was never used:", err)
	}
}

func TestLocksExclude(t *testing.T) {
	d := Dir(t.TempDir())
	one, err := d.Lock(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	two, err := d.Lock(t.Context(), false)
	if err != nil {
		t.Fatal("plugins share the lock:", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if l, err := d.Lock(ctx, true); err == nil {
		l.Close()
		t.Fatal("the agent came in while plugins held the lock")
	}
	one.Close()
	two.Close()
	agent, err := d.Lock(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if l, err := d.Lock(ctx, false); err == nil {
		l.Close()
		t.Fatal("a plugin came in while the agent held the lock")
	}
}
