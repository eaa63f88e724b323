// SPDX-License-Identifier: Apache-2.0

// Package helm builds Helm's own command for tests that install charts as people do. It is no dependency of ours: it is built once, into bin/tools.
package helm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Version is the Helm that is built.
const Version = "v3.22.0"

// Build returns the path of Helm's command in a folder of its own below tools.
func Build(ctx context.Context, tools string) (string, error) {
	tools, err := filepath.Abs(filepath.Join(tools, "helm-"+Version))
	if err != nil {
		return "", err
	}
	path := filepath.Join(tools, "helm")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", "helm.sh/helm/v3/cmd/helm@"+Version)
	cmd.Env = append(os.Environ(), "GOBIN="+tools, "GOFLAGS=-trimpath")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build helm %s (it needs the Go module proxy): %w\n%s", Version, err, out)
	}
	return path, nil
}
