// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/cilium/ebpf"
	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/dataplane/conntrack"
	"github.com/fairlead/fairlead/dataplane/loader"
)

type connectionView struct {
	Service  string `json:"service"`
	Protocol string `json:"protocol"`
	Client   string `json:"client"`
	Frontend string `json:"frontend"`
	Backend  string `json:"backend"`
	Source   string `json:"translatedSource,omitempty"`
	State    string `json:"state"`
	Idle     int    `json:"idleSeconds"`
	Direct   bool   `json:"direct,omitempty"` // the backend, on another node, answers the client itself
}

// source says under what address the backend sees the client.
func (v *connectionView) source() string {
	if v.Direct {
		return "direct"
	}
	return v.Source
}

var connectionStates = []string{"new", "established", "closing", "?"}

// connections reads the forward entries of both tables.
func (env *environment) connections(service string, snatOnly bool) (listing, error) {
	l := listing{header: []string{"SERVICE", "PROTO", "CLIENT", "FRONTEND", "BACKEND", "STATE", "IDLE", "SOURCE"}, wide: 1}
	names, err := env.names()
	if err != nil {
		return l, err
	}
	st := &lbState{names: names}
	now := conntrack.Now()
	views := []connectionView{}
	for _, name := range []string{loader.BPFMapCtTcp, loader.BPFMapCtAny} {
		entries, err := readAll[loader.BPFCtKey, loader.BPFCt](env, name)
		if err != nil {
			return l, err
		}
		for k, e := range entries {
			if e.Flags&conntrack.FlagReply != 0 || !st.belongs(e.Service, service) || snatOnly && e.Flags&conntrack.FlagSNAT == 0 {
				continue
			}
			v := connectionView{
				Service: st.service(e.Service), Protocol: protocolName(k.Proto), Client: addrPort(k.Saddr, k.Sport), Frontend: addrPort(k.Daddr, k.Dport),
				Backend: addrPort(e.Daddr, e.Dport), State: connectionStates[e.State&3], Idle: max(0, int(uint64(int64(int32(now-e.Last))<<30)/1e9)),
			}
			if e.Flags&conntrack.FlagSNAT != 0 {
				v.Source = addrPort(e.Saddr, e.Sport)
			}
			v.Direct = e.Flags&conntrack.FlagDSR != 0
			views = append(views, v)
		}
	}
	sort.Slice(views, func(i, j int) bool { return views[i].Service+views[i].Client < views[j].Service+views[j].Client })
	l.value = views
	for _, v := range views {
		l.rows = append(l.rows, []string{v.Service, v.Protocol, v.Client, v.Frontend, v.Backend, v.State, fmt.Sprintf("%ds", v.Idle), v.source()})
	}
	return l, nil
}

func (env *environment) ctCommand() *cobra.Command {
	var service string
	list := env.watched(&cobra.Command{Use: "list", Short: "List connections that packets (not sockets) were translated for", Args: cobra.NoArgs},
		func(context.Context, []string) error {
			l, err := env.connections(service, false)
			if err != nil {
				return err
			}
			return env.print(l)
		})
	list.Flags().StringVar(&service, "service", "", "only this service, NAMESPACE/NAME")
	var yes bool
	flush := &cobra.Command{
		Use: "flush", Short: "Remove connections; those under way choose a backend anew", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if !yes && service == "" {
				return errors.New("this breaks established connections of every service; say --yes, or choose one with --service")
			}
			n, err := env.flush(service)
			if err == nil {
				fmt.Fprintf(env.out, "%d entries removed\n", n)
			}
			return err
		},
	}
	flush.Flags().StringVar(&service, "service", "", "only this service, NAMESPACE/NAME")
	flush.Flags().BoolVar(&yes, "yes", false, "flush all services")
	return group("ct", "Connection tracking", list, flush)
}

func (env *environment) flush(service string) (int, error) {
	names, err := env.names()
	if err != nil {
		return 0, err
	}
	st, n := &lbState{names: names}, 0
	for _, name := range []string{loader.BPFMapCtTcp, loader.BPFMapCtAny} {
		entries, err := readAll[loader.BPFCtKey, loader.BPFCt](env, name)
		if err != nil {
			return n, err
		}
		m, err := env.openMap(name)
		if err != nil {
			return n, err
		}
		for k, e := range entries {
			if !st.belongs(e.Service, service) {
				continue
			}
			if err := m.Delete(k); err == nil {
				n++
			} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
				m.Close()
				return n, fmt.Errorf("remove connection: %w", err)
			}
		}
		m.Close()
	}
	return n, nil
}

func (env *environment) natCommand() *cobra.Command {
	list := env.watched(&cobra.Command{Use: "list", Short: "List connections whose source is translated", Args: cobra.NoArgs}, func(context.Context, []string) error {
		l, err := env.connections("", true)
		if err != nil {
			return err
		}
		l.wide = 0
		return env.print(l)
	})
	return group("nat", "Source translation", list)
}
