// SPDX-License-Identifier: Apache-2.0

// Package kubectl runs the kubectl that is in the fairlead executable, as a user would: as a process, with a kubeconfig.
package kubectl

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Client is a kubectl and the cluster it talks to.
type Client struct {
	Fairlead   string // path of the executable
	Kubeconfig string // empty: the one that kubectl finds by itself
}

// Run returns what kubectl wrote to its standard output. The error of a command that fails has all that it wrote.
func (c Client) Run(ctx context.Context, args ...string) (string, error) { return c.run(ctx, "", args) }

// Apply applies a manifest.
func (c Client) Apply(ctx context.Context, manifest string) error {
	_, err := c.run(ctx, manifest, []string{"apply", "-f", "-"})
	return err
}

func (c Client) run(ctx context.Context, stdin string, args []string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Fairlead, "kubectl")
	if c.Kubeconfig != "" {
		cmd.Args = append(cmd.Args, "--kubeconfig", c.Kubeconfig)
	}
	cmd.Args = append(cmd.Args, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(out.String()+errOut.String()))
	}
	return out.String(), nil
}
