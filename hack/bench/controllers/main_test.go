// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) {
	klog.SetLogger(klog.New(nil))
	if kubeconfig := os.Getenv(childEnv); kubeconfig != "" {
		ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer cancel()
		if err := child(ctx, kubeconfig); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestQuick runs the whole benchmark small: it fails when a phase does not reach the state that was asked for.
func TestQuick(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), options{nodes: 10, deployments: 2, replicas: 15, out: t.TempDir()}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"roll out", "update", "roll back", "drain"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}
