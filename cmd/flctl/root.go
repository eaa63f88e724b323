// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/loader"
)

// environment is what commands use of the world.
type environment struct {
	out, err io.Writer
	pinDir   string
	stateDir string
	runDir   string
	output   string
	watch    time.Duration
}

func newRoot(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use: "flctl", Short: "Show what this node's datapath does", SilenceUsage: true, SilenceErrors: true,
		Long: "flctl reads the datapath's pinned maps and programs. It needs root, but no running agent.",
	}
	root.SetOut(env.out)
	root.SetErr(env.err)
	f := root.PersistentFlags()
	f.StringVar(&env.pinDir, "pin-dir", loader.DefaultPinDir, "directory of the pinned maps and links")
	f.StringVar(&env.stateDir, "state-dir", "/var/lib/fairlead/agent/loadbalancer", "directory of the agent's names file")
	f.StringVar(&env.runDir, "run-dir", "/run/fairlead", "directory of the agent's sockets and reports")
	f.StringVarP(&env.output, "output", "o", "table", "table, wide, json or yaml")
	root.AddCommand(env.lbCommand(), env.ctCommand(), env.natCommand(), env.mapCommand(), env.progCommand(), env.metricsCommand(), env.statusCommand(), env.healthCommand(), env.verifyCommand(), env.monitorCommand(), env.dnsCommand())
	return root
}

// group makes a command that only holds others.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.AddCommand(sub...)
	return c
}

// watched makes run repeat every --watch.
func (env *environment) watched(c *cobra.Command, run func(ctx context.Context, args []string) error) *cobra.Command {
	c.Flags().DurationVarP(&env.watch, "watch", "w", 0, "repeat at this interval")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		for {
			if err := run(cmd.Context(), args); err != nil || env.watch <= 0 {
				return err
			}
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(env.watch):
				fmt.Fprintln(env.out)
			}
		}
	}
	return c
}

// openMap opens a pinned map by name. The caller closes it.
func (env *environment) openMap(name string) (*ebpf.Map, error) {
	dir := loader.MapDir(env.pinDir)
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no map %q below %s: is the dataplane installed here, or does it pin elsewhere (--pin-dir)?", name, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open map %s: %w", name, err)
	}
	return m, nil
}

// readAll reads a whole hash or array map.
func readAll[K comparable, V any](env *environment, name string) (map[K]V, error) {
	m, err := env.openMap(name)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	out := make(map[K]V)
	keys, values := make([]K, 4096), make([]V, 4096)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			out[keys[i]] = values[i]
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read map %s: %w", name, err)
		}
	}
}

func (env *environment) names() (loadbalancer.Names, error) {
	return loadbalancer.ReadNames(env.stateDir)
}
