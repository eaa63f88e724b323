// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"
)

const collectPatience = 20 * time.Second

// Collect copies what explains a failure into dir: every node's logs, the cluster's objects and events, and dumps of every node's maps. What
// cannot be had is left out and named in the error; the rest is there.
func (s *Sandbox) Collect(ctx context.Context, dir string) error {
	st, err := s.Load()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, collectPatience)
	defer cancel()
	var missing []error
	keep := func(name string, f func(out *bytes.Buffer) error) {
		var out bytes.Buffer
		if err := f(&out); err != nil {
			missing = append(missing, err)
		}
		missing = append(missing, os.WriteFile(filepath.Join(dir, name), out.Bytes(), 0o644))
	}
	for _, h := range st.Topology.Nodes() {
		missing = append(missing, copyFile(s.LogFile(h.Name), filepath.Join(dir, h.Name+".log")))
		for _, args := range [][]string{{"lb", "list"}, {"status"}, {"metrics"}} {
			keep(h.Name+"-flctl-"+args[0]+".txt", func(out *bytes.Buffer) error {
				return s.Exec(ctx, h.Name, append([]string{s.sibling("flctl")}, args...), nil, out, out)
			})
		}
		keep(h.Name+"-network.txt", func(out *bytes.Buffer) error {
			return s.Exec(ctx, h.Name, []string{"sh", "-c", "ip addr; ip route; ip -6 route; ip neigh"}, nil, out, out)
		})
	}
	for name, args := range map[string][]string{
		"events.txt":  {"get", "events", "-A", "--sort-by=.metadata.creationTimestamp"},
		"pods.yaml":   {"get", "pods", "-A", "-o", "yaml"},
		"objects.txt": {"get", "nodes,pods,services,endpointslices,deployments", "-A", "-o", "wide"},
	} {
		keep(name, func(out *bytes.Buffer) error {
			text, err := s.Kubectl().Run(ctx, args...)
			out.WriteString(text)
			return err
		})
	}
	return errors.Join(missing...)
}
