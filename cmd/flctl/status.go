// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/dataplane/loader"
)

type counterView struct {
	Name    string `json:"name"`
	Packets uint64 `json:"count"`
	Bytes   uint64 `json:"bytes,omitempty"`
}

// counters reads the datapath's counters: drops by reason, then events.
func (env *environment) counters() ([]counterView, error) {
	reasons, err := loader.DropReasons()
	if err != nil {
		return nil, err
	}
	events, err := loader.EnumNames("lb_counter_index", "lb_")
	if err != nil {
		return nil, err
	}
	var out []counterView
	drops, err := env.openMap(loader.BPFMapDrops)
	if err != nil {
		return nil, err
	}
	defer drops.Close()
	for i, name := range reasons {
		var per []loader.BPFDropCounter
		if name == "reason_count" || drops.Lookup(uint32(i), &per) != nil {
			continue
		}
		v := counterView{Name: "drop/" + name}
		if i == 0 {
			v.Name = "sent"
		}
		for _, c := range per {
			v.Packets += c.Packets
			v.Bytes += c.Bytes
		}
		out = append(out, v)
	}
	m, err := env.openMap(loader.BPFMapLbCounters)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	for i, name := range events {
		var per []uint64
		if name == "counter_count" || m.Lookup(uint32(i), &per) != nil {
			continue
		}
		v := counterView{Name: "lb/" + name}
		for _, c := range per {
			v.Packets += c
		}
		out = append(out, v)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

func (env *environment) metricsCommand() *cobra.Command {
	var zero bool
	c := env.watched(&cobra.Command{Use: "metrics", Short: "Show the datapath's counters", Args: cobra.NoArgs}, func(context.Context, []string) error {
		views, err := env.counters()
		if err != nil {
			return err
		}
		l := listing{header: []string{"COUNTER", "COUNT", "BYTES"}}
		shown := []counterView{}
		for _, v := range views {
			if v.Packets == 0 && !zero {
				continue
			}
			shown = append(shown, v)
			l.rows = append(l.rows, []string{v.Name, fmt.Sprint(v.Packets), fmt.Sprint(v.Bytes)})
		}
		l.value = shown
		return env.print(l)
	})
	c.Flags().BoolVar(&zero, "all", false, "also those that are zero")
	return c
}

type statusView struct {
	Layout   int      `json:"mapLayout"`
	PinDir   string   `json:"pinDir"`
	Links    []string `json:"links"`
	Services int      `json:"frontends"`
	Backends int      `json:"backends"`
	TCP      int      `json:"tcpConntrackEntries"`
	TCPMax   uint32   `json:"tcpConntrackCapacity"`
	Any      int      `json:"otherConntrackEntries"`
	AnyMax   uint32   `json:"otherConntrackCapacity"`
	Drops    uint64   `json:"drops"`
	Mode     string   `json:"mode,omitempty"`
	Dispatch string   `json:"dsrDispatch,omitempty"`
	Direct   int      `json:"directFrontends"` // answered by backends on other nodes themselves
}

// flagDSR is SERVICE_DSR of bpf/lib/types.h.
const flagDSR = 0x40

// mode says how backends on other nodes answer clients outside.
func (v *statusView) mode() string {
	if v.Mode == "" {
		return fmt.Sprintf("not known; %d frontends directly", v.Direct)
	}
	if v.Direct == 0 {
		return v.Mode
	}
	return fmt.Sprintf("%s; %d frontends directly, by %s", v.Mode, v.Direct, v.Dispatch)
}

func (env *environment) statusCommand() *cobra.Command {
	return env.watched(&cobra.Command{Use: "status", Short: "Show the state of the datapath in a few lines", Args: cobra.NoArgs}, func(context.Context, []string) error {
		st, err := env.loadBalancer()
		if err != nil {
			return err
		}
		v := statusView{Layout: loader.LayoutVersion, PinDir: env.pinDir, Mode: string(st.names.Mode), Dispatch: string(st.names.Dispatch)}
		progs, err := env.programs()
		if err != nil {
			return err
		}
		for _, p := range progs {
			v.Links = append(v.Links, p.Link+" on "+p.Attach)
		}
		for k, s := range st.services {
			if k.Proto != 0 {
				v.Services++
				if s.Flags&flagDSR != 0 {
					v.Direct++
				}
			}
		}
		for _, b := range st.backends {
			if b.Flags != 0 {
				v.Backends++
			}
		}
		if v.TCP, v.TCPMax, err = env.fill(loader.BPFMapCtTcp); err != nil {
			return err
		}
		if v.Any, v.AnyMax, err = env.fill(loader.BPFMapCtAny); err != nil {
			return err
		}
		counters, err := env.counters()
		if err != nil {
			return err
		}
		for _, c := range counters {
			if strings.HasPrefix(c.Name, "drop/") {
				v.Drops += c.Packets
			}
		}
		l := listing{header: []string{"WHAT", "STATE"}, value: v, rows: [][]string{
			{"map layout", fmt.Sprintf("v%d in %s", v.Layout, v.PinDir)},
			{"frontends", fmt.Sprint(v.Services)},
			{"backends", fmt.Sprintf("%d of %d", v.Backends, len(st.backends))},
			{"TCP conntrack", fmt.Sprintf("%d of %d", v.TCP, v.TCPMax)},
			{"other conntrack", fmt.Sprintf("%d of %d", v.Any, v.AnyMax)},
			{"packets dropped", fmt.Sprint(v.Drops)},
			{"mode", v.mode()},
		}}
		for _, s := range v.Links {
			l.rows = append(l.rows, []string{"attached", s})
		}
		return env.print(l)
	})
}

func (env *environment) fill(name string) (int, uint32, error) {
	entries, err := readAll[loader.BPFCtKey, loader.BPFCt](env, name)
	if err != nil {
		return 0, 0, err
	}
	m, err := env.openMap(name)
	if err != nil {
		return 0, 0, err
	}
	defer m.Close()
	return len(entries), m.MaxEntries(), nil
}
