// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/loader"
)

func (env *environment) lbCommand() *cobra.Command {
	list := env.watched(&cobra.Command{Use: "list", Short: "List services and their frontends", Args: cobra.NoArgs}, func(context.Context, []string) error {
		st, err := env.loadBalancer()
		if err != nil {
			return err
		}
		return env.print(st.list(""))
	})
	show := env.watched(&cobra.Command{Use: "show NAMESPACE/NAME", Short: "Show one service: frontends, then backends", Args: cobra.ExactArgs(1)},
		func(_ context.Context, args []string) error {
			st, err := env.loadBalancer()
			if err != nil {
				return err
			}
			l := st.list(args[0])
			if len(l.rows) == 0 {
				return fmt.Errorf("no service %s in the kernel", args[0])
			}
			backends := st.listBackends(args[0])
			if env.output == "json" || env.output == "yaml" {
				return env.print(listing{value: map[string]any{"frontends": l.value, "backends": backends.value}})
			}
			if err := env.print(l); err != nil {
				return err
			}
			fmt.Fprintln(env.out)
			return env.print(backends)
		})
	backends := env.watched(&cobra.Command{Use: "backends [NAMESPACE/NAME]", Short: "List backends with their state and open connections", Args: cobra.MaximumNArgs(1)},
		func(_ context.Context, args []string) error {
			st, err := env.loadBalancer()
			if err != nil {
				return err
			}
			return env.print(st.listBackends(strings.Join(args, "")))
		})
	maglev := &cobra.Command{
		Use: "maglev NAMESPACE/NAME", Short: "Show how evenly a service's selection table is filled", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			st, err := env.loadBalancer()
			if err != nil {
				return err
			}
			return env.print(st.tables(args[0]))
		},
	}
	return group("lb", "The service load balancer", list, show, backends, maglev)
}

// lbState is the load balancer's maps, read.
type lbState struct {
	services map[loader.BPFServiceKey]loader.BPFService
	backends []loader.BPFBackend
	loads    []loader.BPFBackendLoad
	slots    []loader.BPFSlotElem
	names    loadbalancer.Names
}

func (env *environment) loadBalancer() (*lbState, error) {
	st := &lbState{}
	var errs [5]error
	st.services, errs[0] = readAll[loader.BPFServiceKey, loader.BPFService](env, loader.BPFMapServices)
	st.backends, errs[1] = readArray[loader.BPFBackend](env, loader.BPFMapBackends)
	st.loads, errs[2] = readArray[loader.BPFBackendLoad](env, loader.BPFMapBackendLoads)
	st.slots, errs[3] = readArray[loader.BPFSlotElem](env, loader.BPFMapSlots)
	st.names, errs[4] = env.names()
	return st, errors.Join(errs[:]...)
}

// readArray copies a shared-memory array.
func readArray[T any](env *environment, name string) ([]T, error) {
	m, err := env.openMap(name)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	rows, unmap, err := loader.Shared[T](m)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(rows)
	return out, unmap()
}

// service names a service port; its number if the names file does not know it.
func (st *lbState) service(id uint32) string {
	if n, ok := st.names.Services[id]; ok {
		return n.String()
	}
	return fmt.Sprintf("#%d", id)
}

// belongs says whether service port id is one of the service "namespace/name"; "" is every service.
func (st *lbState) belongs(id uint32, service string) bool {
	n, ok := st.names.Services[id]
	return service == "" || ok && n.Namespace+"/"+n.Name == service || service == fmt.Sprintf("#%d", id)
}

type frontendView struct {
	Service   string   `json:"service"`
	ID        uint32   `json:"id"`
	Kind      string   `json:"kind"`
	Frontend  string   `json:"frontend"`
	Protocol  string   `json:"protocol"`
	Algorithm string   `json:"algorithm"`
	Inside    int      `json:"backendsInside"`
	Outside   int      `json:"backendsOutside"`
	Flags     []string `json:"flags,omitempty"`
	Affinity  int      `json:"affinitySeconds,omitempty"`
}

var protocols = map[uint8]string{1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}

func protocolName(p uint8) string {
	if n, ok := protocols[p]; ok {
		return n
	}
	return fmt.Sprint(p)
}

// Names of SERVICE_* and BACKEND_* by bit, as bpf/lib/types.h defines them.
var (
	serviceFlags = []string{"vip", "node", "external", "external-local", "internal-local", "source-ranges", "dsr", "has-endpoints", "answered-here"}
	backendFlags = []string{"cluster", "local", "on-node", "live"}
)

func flagNames(v uint32, names []string) []string {
	var out []string
	for i, n := range names {
		if v&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

func addrPort(a loader.BPFAddr, port uint16) string {
	return netip.AddrPortFrom(netip.AddrFrom16(a.B).Unmap(), loader.Ntohs(port)).String()
}

func (st *lbState) list(service string) listing {
	views := []frontendView{}
	for k, s := range st.services {
		if k.Proto == 0 || !st.belongs(s.Id, service) {
			continue
		}
		v := frontendView{
			Service: st.service(s.Id), ID: s.Id, Frontend: addrPort(k.Addr, k.Port), Protocol: protocolName(k.Proto),
			Algorithm: loadbalancer.Algorithm(s.Algorithm).String(), Flags: flagNames(uint32(s.Flags), serviceFlags),
			Inside: len(st.distinct(s.In)), Outside: len(st.distinct(s.Out)), Affinity: int(uint64(s.Affinity) << 30 / 1e9),
		}
		v.Kind = st.names.Services[s.Id].Kinds[v.Frontend]
		views = append(views, v)
	}
	sort.Slice(views, func(i, j int) bool {
		a, b := views[i], views[j]
		if a.Service != b.Service {
			return a.Service < b.Service
		}
		return a.Frontend+a.Protocol < b.Frontend+b.Protocol
	})
	l := listing{header: []string{"SERVICE", "KIND", "FRONTEND", "PROTO", "BACKENDS", "ALGORITHM", "ID", "OUTSIDE", "AFFINITY", "FLAGS"}, wide: 4, value: views}
	for _, v := range views {
		l.rows = append(l.rows, []string{v.Service, v.Kind, v.Frontend, v.Protocol, fmt.Sprint(v.Inside), v.Algorithm,
			fmt.Sprint(v.ID), fmt.Sprint(v.Outside), fmt.Sprintf("%ds", v.Affinity), strings.Join(v.Flags, ",")})
	}
	return l
}

// distinct counts how often each backend row stands in a run.
func (st *lbState) distinct(run loader.BPFSlotRun) map[uint32]int {
	out := map[uint32]int{}
	for i := range run.Count {
		e := int(run.Base + i/16)
		if e >= len(st.slots) {
			break
		}
		out[st.slots[e].Id[i%16]]++
	}
	return out
}

type backendView struct {
	Service    string   `json:"service"`
	Backend    string   `json:"backend"`
	Target     string   `json:"target,omitempty"`
	State      []string `json:"state"`
	Open       uint32   `json:"openConnections"`
	Total      uint64   `json:"totalConnections"`
	Weight     uint8    `json:"weight"`
	Row        int      `json:"row"`
	Generation uint32   `json:"generation"`
}

func (st *lbState) listBackends(service string) listing {
	views := []backendView{}
	for i, b := range st.backends {
		if i == 0 || b.Flags == 0 || !st.belongs(b.Service, service) {
			continue
		}
		views = append(views, backendView{
			Service: st.service(b.Service), Backend: addrPort(b.Addr, b.Port), Target: st.names.Targets[netip.AddrFrom16(b.Addr.B).Unmap().String()],
			State: flagNames(uint32(b.Flags), backendFlags), Open: st.loads[i].Open, Total: st.loads[i].Total, Weight: b.Weight, Row: i, Generation: b.Generation,
		})
	}
	sort.SliceStable(views, func(i, j int) bool { return views[i].Service < views[j].Service })
	l := listing{header: []string{"SERVICE", "BACKEND", "TARGET", "STATE", "OPEN", "TOTAL", "WEIGHT", "ROW", "GENERATION"}, wide: 3, value: views}
	for _, v := range views {
		l.rows = append(l.rows, []string{v.Service, v.Backend, v.Target, strings.Join(v.State, ","), fmt.Sprint(v.Open), fmt.Sprint(v.Total),
			fmt.Sprint(v.Weight), fmt.Sprint(v.Row), fmt.Sprint(v.Generation)})
	}
	return l
}

type tableView struct {
	Service string  `json:"service"`
	Size    uint32  `json:"size"`
	Backend string  `json:"backend"`
	Slots   int     `json:"slots"`
	Share   float64 `json:"share"`
}

// tables shows the shares of a service's selection tables, each table once.
func (st *lbState) tables(service string) listing {
	views := []tableView{}
	seen := map[loader.BPFSlotRun]bool{}
	for k, s := range st.services {
		if k.Proto == 0 || !st.belongs(s.Id, service) {
			continue
		}
		for _, run := range []loader.BPFSlotRun{s.In, s.Out} {
			if run.Count == 0 || seen[run] {
				continue
			}
			seen[run] = true
			for row, n := range st.distinct(run) {
				b := st.backends[row]
				views = append(views, tableView{st.service(s.Id), run.Count, addrPort(b.Addr, b.Port), n, float64(n) / float64(run.Count)})
			}
		}
	}
	sort.Slice(views, func(i, j int) bool {
		a, b := views[i], views[j]
		return fmt.Sprint(a.Service, a.Size, a.Backend) < fmt.Sprint(b.Service, b.Size, b.Backend)
	})
	l := listing{header: []string{"SERVICE", "TABLE SIZE", "BACKEND", "SLOTS", "SHARE"}, value: views}
	for _, v := range views {
		l.rows = append(l.rows, []string{v.Service, fmt.Sprint(v.Size), v.Backend, fmt.Sprint(v.Slots), fmt.Sprintf("%.2f%%", 100*v.Share)})
	}
	return l
}
