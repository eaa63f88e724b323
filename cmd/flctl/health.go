// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/dataplane/health"
)

// healthCommand shows what the agent's probes of the other nodes found. It reads the agent's file, so the last look stays readable while the agent is down.
func (env *environment) healthCommand() *cobra.Command {
	return env.watched(&cobra.Command{Use: "health", Short: "Show whether the other nodes answer over the pod network, and how fast", Args: cobra.NoArgs}, func(context.Context, []string) error {
		path := filepath.Join(env.runDir, health.File)
		body, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("no %s: the pod network has not run here, or its run directory is another (--run-dir)", path)
		}
		if err != nil {
			return err
		}
		peers := []health.Peer{}
		if err := json.Unmarshal(body, &peers); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		l := listing{header: []string{"NODE", "ADDRESS", "STATE", "LATENCY", "LOST", "SENT"}, wide: 2, value: peers}
		for _, p := range peers {
			state, latency := "unreachable", "-"
			if p.Reachable {
				state, latency = "reachable", p.Latency.Round(time.Microsecond).String()
			}
			l.rows = append(l.rows, []string{p.Node, fmt.Sprint(p.Addr), state, latency, fmt.Sprint(p.Lost), fmt.Sprint(p.Sent)})
		}
		return env.print(l)
	})
}
