// SPDX-License-Identifier: Apache-2.0

package containerlogs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestRotate(t *testing.T) {
	log := filepath.Join(t.TempDir(), "0.log")
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	reopened := 0
	r := Rotator{MaxSize: 4, MaxFiles: 3, Now: func() time.Time { return now }, Reopen: func(context.Context, string) error {
		reopened++
		return os.WriteFile(log, nil, 0o640)
	}}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(log, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		if err := r.Rotate(t.Context(), "id", log); err != nil {
			t.Fatal(err)
		}
	}
	write("abc")
	if reopened != 0 {
		t.Error("a small log was rotated")
	}
	for range 5 {
		write("abcdef")
	}
	files, err := filepath.Glob(log + "*")
	if err != nil {
		t.Fatal(err)
	}
	if reopened != 5 || len(files) != 3 || filepath.Ext(files[1]) != ".gz" || filepath.Ext(files[2]) == ".gz" {
		t.Errorf("after %d rotations: %v", reopened, files)
	}
	r.Reopen = func(context.Context, string) error { return errors.New("no") }
	if err := os.WriteFile(log, []byte("abcdef"), 0o640); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	if err := r.Rotate(t.Context(), "id", log); err == nil {
		t.Error("a failure to reopen was not told")
	}
	if data, err := os.ReadFile(log); err != nil || string(data) != "abcdef" {
		t.Errorf("the log that could not be rotated is %q, %v", data, err)
	}
	if err := r.Rotate(t.Context(), "id", log+"none"); err != nil {
		t.Error(err)
	}
}
