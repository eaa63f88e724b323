// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"os"
	"testing"
	"time"

	"k8s.io/klog/v2/ktesting"
)

func TestStartAlone(t *testing.T) {
	log, ctx := ktesting.NewTestContext(t)
	_ = log
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cfg := Config{DataDir: t.TempDir()}

	s, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client().Put(ctx, "/a", "1"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(cfg.socket())
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("socket has mode %o, want 600", got)
	}
	s.Close()

	// The same directory again: what was written is there.
	s, err = Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Client().Get(ctx, "/a")
	if err != nil {
		t.Fatal(err)
	}
	if r.Count != 1 || string(r.Kvs[0].Value) != "1" {
		t.Errorf("after restart /a is %v, want 1", r.Kvs)
	}
}

func TestStartWithoutPlace(t *testing.T) {
	if _, err := Start(t.Context(), Config{}); err == nil {
		t.Error("Start without directory and endpoints returned no error")
	}
}
