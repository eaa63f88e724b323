// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/loader"
)

type progView struct {
	Link    string  `json:"link"`
	Program string  `json:"program"`
	ID      uint32  `json:"id"`
	Attach  string  `json:"attachedTo"`
	Insns   int     `json:"verifiedInstructions,omitempty"`
	Loaded  string  `json:"loadedAt,omitempty"`
	Runs    uint64  `json:"runs,omitempty"`
	NsPer   float64 `json:"nsPerRun,omitempty"`
}

// programs reads the pinned links and what is attached through them.
func (env *environment) programs() ([]progView, error) {
	dir := linkDir(env.pinDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	views := []progView{}
	for _, e := range entries {
		v := progView{Link: loader.LinkName(e.Name())}
		l, err := link.LoadPinnedLink(filepath.Join(dir, e.Name()), nil)
		if err != nil {
			return nil, fmt.Errorf("open link %s: %w", e.Name(), err)
		}
		info, err := l.Info()
		l.Close()
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", e.Name(), err)
		}
		v.ID, v.Attach = uint32(info.Program), target(info)
		if p, err := ebpf.NewProgramFromID(info.Program); err == nil {
			v.describe(p)
			p.Close()
		}
		views = append(views, v)
	}
	filters, err := loader.Filters(env.pinDir)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		v := progView{Link: f.Name, Attach: deviceName("clsact", uint32(f.Ifindex))}
		p, err := ebpf.LoadPinnedProgram(f.Pin, nil)
		if err != nil {
			return nil, fmt.Errorf("open filter %s: %w", f.Name, err)
		}
		v.describe(p)
		p.Close()
		views = append(views, v)
	}
	return views, nil
}

// describe fills in what the kernel says of the program.
func (v *progView) describe(p *ebpf.Program) {
	if pi, err := p.Info(); err == nil {
		v.Program = pi.Name
		if id, ok := pi.ID(); ok {
			v.ID = uint32(id)
		}
		n, _ := pi.VerifiedInstructions()
		v.Insns = int(n)
		if at, ok := pi.LoadTime(); ok {
			v.Loaded = bootTime().Add(at).Format(time.RFC3339)
		}
	}
	if s, err := p.Stats(); err == nil && s.RunCount > 0 {
		v.Runs, v.NsPer = s.RunCount, float64(s.Runtime.Nanoseconds())/float64(s.RunCount)
	}
}

func bootTime() time.Time {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(ts.Nano()))
}

// deviceName says on which device a program of some kind is.
func deviceName(kind string, index uint32) string {
	if index == 0 {
		return kind + " (device gone)"
	}
	if d, err := net.InterfaceByIndex(int(index)); err == nil {
		return kind + " " + d.Name
	}
	return fmt.Sprintf("%s device %d", kind, index)
}

// target says where a link is attached.
func target(info *link.Info) string {
	if t := info.TCX(); t != nil {
		return deviceName("tcx", t.Ifindex)
	}
	if n := info.Netkit(); n != nil {
		if ebpf.AttachType(n.AttachType) == ebpf.AttachNetkitPeer {
			return fmt.Sprintf("netkit, pod's device %d", n.Ifindex) // an index of the pod's namespace
		}
		return deviceName("netkit", n.Ifindex)
	}
	if x := info.XDP(); x != nil {
		return deviceName("xdp", x.Ifindex)
	}
	if c := info.Cgroup(); c != nil {
		return fmt.Sprintf("cgroup %d", c.CgroupId)
	}
	return fmt.Sprint(info.Type)
}

func (env *environment) progCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List attached programs", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			views, err := env.programs()
			if err != nil {
				return err
			}
			l := listing{header: []string{"LINK", "PROGRAM", "ATTACHED TO", "ID", "VERIFIED", "LOADED"}, wide: 3, value: views}
			for _, v := range views {
				l.rows = append(l.rows, []string{v.Link, v.Program, v.Attach, fmt.Sprint(v.ID), fmt.Sprint(v.Insns), v.Loaded})
			}
			return env.print(l)
		},
	}
	var span time.Duration
	stats := &cobra.Command{
		Use: "stats", Short: "Measure how often programs run and what a run costs", Args: cobra.NoArgs,
		Long: "stats has the kernel measure for --for; that costs every run some 20 ns while it lasts.",
		RunE: func(cmd *cobra.Command, _ []string) error { return env.progStats(cmd.Context(), span) },
	}
	stats.Flags().DurationVar(&span, "for", time.Second, "how long to measure")
	return group("prog", "Attached programs", list, stats)
}

func (env *environment) progStats(ctx context.Context, span time.Duration) error {
	closer, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("measure run time: %w", err)
	}
	defer closer.Close()
	before, err := env.programs()
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(span):
	}
	after, err := env.programs()
	if err != nil {
		return err
	}
	was := map[uint32]progView{}
	for _, v := range before {
		was[v.ID] = v
	}
	l := listing{header: []string{"LINK", "RUNS/S", "NS/RUN"}}
	for i := range after {
		v := &after[i]
		b := was[v.ID]
		runs, ns := v.Runs-b.Runs, v.NsPer*float64(v.Runs)-b.NsPer*float64(b.Runs)
		v.Runs, v.NsPer = runs, 0
		if runs > 0 {
			v.NsPer = ns / float64(runs)
		}
		l.rows = append(l.rows, []string{v.Link, fmt.Sprintf("%.0f", float64(runs)/span.Seconds()), fmt.Sprintf("%.0f", v.NsPer)})
	}
	l.value = after
	return env.print(l)
}
