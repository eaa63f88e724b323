// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestOneCommandChangesASandboxAtATime(t *testing.T) {
	s := &Sandbox{Name: "t", Dir: filepath.Join(t.TempDir(), "t")}
	unlock, err := s.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.lock(); err == nil {
		t.Error("a second command got the lock")
	}
	if err := s.Down(); err == nil {
		t.Error("down did not wait for the command that holds the lock")
	}
	unlock()
	for range 2 { // twice in a row is harmless
		if err := s.Down(); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(s.Dir)); err != nil || len(left) > 0 {
		t.Errorf("down left %v (%v)", left, err)
	}
}

func TestDamagedStateIsSaid(t *testing.T) {
	s := &Sandbox{Name: "t", Dir: t.TempDir()}
	if _, err := s.Load(); !errors.Is(err, ErrNotUp) {
		t.Errorf("no state: %v, want ErrNotUp", err)
	}
	if err := os.WriteFile(s.stateFile(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); err == nil || errors.Is(err, ErrNotUp) {
		t.Errorf("half a state file: %v, want an error that says it is damaged", err)
	}
}
