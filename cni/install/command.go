// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/cni/plugin"
	"github.com/fairlead/fairlead/cni/wire"
)

// ErrNotInstalled is what the status command fails with when runtimes do not use Fairlead.
var ErrNotInstalled = errors.New("CNI is not installed or the agent is not ready")

// NewCommand returns "cni install|uninstall|status", printing to out.
func NewCommand(out io.Writer) *cobra.Command {
	var o Options
	cmd := &cobra.Command{Use: "cni", Short: "Install, remove or check the CNI plugin on this node"}
	f := cmd.PersistentFlags()
	f.StringVar(&o.Source, "plugin", "", "the plugin's executable (default: fairlead-cni beside this program)")
	f.StringVar(&o.BinDir, "cni-bin-dir", "/opt/cni/bin", "directory of CNI plugins")
	f.StringVar(&o.ConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory of CNI configurations")
	f.StringVar(&o.Socket, "cni-socket", plugin.DefaultSocket, "socket of the node agent")
	f.StringVar(&o.QueueDir, "cni-queue-dir", plugin.DefaultQueue, "directory for deletions while the node agent is down")

	var wait time.Duration
	add := &cobra.Command{Use: "install", Short: "Install the plugin now and its configuration as soon as the node agent is ready", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := InstallPlugin(o); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			for {
				err := Probe(ctx, o.Socket)
				if err == nil {
					break
				}
				select {
				case <-ctx.Done():
					return fmt.Errorf("the plugin is installed, its configuration is not: the node agent was not ready within %s: %w", wait, err)
				case <-time.After(200 * time.Millisecond):
				}
			}
			if err := WriteConf(o); err != nil {
				return err
			}
			fmt.Fprintf(out, "installed %s and %s\n", o.binary(), o.conf())
			return nil
		}}
	add.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long to wait for the node agent")
	remove := &cobra.Command{Use: "uninstall", Short: "Remove the configuration and the plugin", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := Uninstall(o); err != nil {
				return err
			}
			fmt.Fprintf(out, "removed %s and %s\n", o.conf(), o.binary())
			return nil
		}}
	var output string
	status := &cobra.Command{Use: "status", Short: "Say whether runtimes on this node use Fairlead", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
			defer cancel()
			s, err := Status(o, func() error { return Probe(ctx, o.Socket) })
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(out)
				enc.SetIndent("", "  ")
				if err := enc.Encode(s); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(out, "plugin:        %s\nconfiguration: %s\nruntimes use:  %s\nagent:         %s\n", s.Plugin, s.Conf, s.First, s.Agent)
			}
			if !s.Installed() || s.Agent != "ready" {
				return ErrNotInstalled
			}
			return nil
		}}
	status.Flags().StringVarP(&output, "output", "o", "", "json for a machine-readable answer")
	cmd.AddCommand(add, remove, status)
	return cmd
}

// Probe asks the agent whether it can connect pods.
func Probe(ctx context.Context, socket string) error {
	if socket == "" {
		socket = plugin.DefaultSocket
	}
	resp, err := wire.Call(ctx, socket, &wire.Request{Command: wire.Status, Network: Network}, -1)
	if err != nil {
		return err
	}
	if resp.Error != nil {
		return resp.Error
	}
	return nil
}
