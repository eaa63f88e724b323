// SPDX-License-Identifier: Apache-2.0

// Package runc builds a runc that can make user namespaces with mapped mounts, which Debian 12's own cannot, for tests of nodes that have one. It is no dependency of
// ours: it is built once, into bin/tools.
package runc

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Version is the runc that is built.
const Version = "v1.4.3"

// Build returns the path of runc in a folder of its own below tools.
func Build(ctx context.Context, tools string) (string, error) {
	tools, err := filepath.Abs(filepath.Join(tools, "runc-"+Version))
	if err != nil {
		return "", err
	}
	path := filepath.Join(tools, "runc")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", "-tags", "seccomp", "github.com/opencontainers/runc@"+Version)
	cmd.Env = append(os.Environ(), "GOBIN="+tools, "GOFLAGS=-trimpath", "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build runc %s (it needs gcc, pkg-config, libseccomp-dev and the Go module proxy): %w\n%s", Version, err, out)
	}
	return path, nil
}
