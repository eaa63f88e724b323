// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/statedb"

	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/dataplane/tables"
	"github.com/fairlead/fairlead/hack/bench/report"
)

const (
	progServices = 10_000
	progRate     = 1000 // changes per second
	progFor      = 10 * time.Second
	progFill     = 5 // times from nothing
)

// programming measures from rows in memory to entries in the kernel: all services from nothing, then changes of single endpoints at a fixed rate.
func programming(s *scope, out string) error {
	var fills []float64
	for range progFill {
		took, err := fromNothing()
		if err != nil {
			return err
		}
		fills = append(fills, float64(took.Microseconds())/1000)
	}
	delays, rss, anon, err := changes(s)
	if err != nil {
		return err
	}
	r := report.New("lb-programming")
	const changed = "one change at 1,000 changes/s, 10,000 services x 10 endpoints"
	r.Add(
		report.Figure("10,000 services x 2 endpoints from nothing", "rows to kernel", "ms", fills...).AtMost(100),
		report.Figure(changed, "p50", "ms", report.Quantile(delays, 0.5)),
		report.Figure(changed, "p99", "ms", report.Quantile(delays, 0.99)).AtMost(5),
		report.Figure(changed, "worst", "ms", slices.Max(delays)),
		report.Figure(changed, "resident memory, with tables and load generator", "MB", rss).AtMost(150),
		report.Figure(changed, "of it anonymous", "MB", anon),
	)
	return r.Finish(os.Stdout, out)
}

// fromNothing has a running load balancer get all services at once and returns how long it took until the kernel had them.
func fromNothing() (time.Duration, error) {
	s := new(scope)
	defer s.end()
	tb, err := tables.New()
	if err != nil {
		return 0, err
	}
	m, err := balancerOver(s, tb)
	if err != nil {
		return 0, err
	}
	rows := progRows(2)
	w := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices)
	rows.insert(tb, w)
	began := time.Now()
	w.Commit()
	// Written in one go, in any order: when a spread of them is there, all but the last few are.
	for i := 0; i < progServices; {
		var v loader.BPFService
		switch err := m.Lookup(rows.key(i), &v); {
		case err == nil && v.In.Count == 2:
			i += 100
		case err == nil || errors.Is(err, ebpf.ErrKeyNotExist):
			time.Sleep(200 * time.Microsecond)
		default:
			return 0, err
		}
		if time.Since(began) > time.Minute {
			return 0, errors.New("services do not appear in the kernel")
		}
	}
	return time.Since(began), nil
}

// changes replaces one endpoint after another, each in a service of its own, and returns after how many milliseconds the kernel chose among the new ones.
func changes(s *scope) (delays []float64, rss, anon float64, err error) {
	tb, err := tables.New()
	if err != nil {
		return nil, 0, 0, err
	}
	rows := progRows(10)
	w := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices)
	rows.insert(tb, w)
	w.Commit()
	m, err := balancerOver(s, tb)
	if err != nil {
		return nil, 0, 0, err
	}
	type change struct {
		key  loader.BPFServiceKey
		base uint32 // of the selection table before
		at   time.Time
	}
	n := int(progFor.Seconds() * progRate)
	made := make(chan change, n)
	go func() {
		defer close(made)
		began := time.Now()
		for i := range n {
			if wait := time.Until(began.Add(time.Duration(i) * time.Second / progRate)); wait > 0 {
				time.Sleep(wait)
			}
			at := i * 7919 % progServices // a prime: spread over all
			var v loader.BPFService
			if m.Lookup(rows.key(at), &v) != nil {
				continue
			}
			sl := *rows.slices[at]
			sl.Endpoints = slices.Clone(sl.Endpoints)
			sl.Endpoints[i%10].Addr = netip.AddrFrom4([4]byte{10, 200 + byte(i/progServices), byte(i >> 8), byte(i)})
			rows.slices[at] = &sl
			w := tb.DB.WriteTxn(tb.EndpointSlices)
			_, _, _ = tb.EndpointSlices.Insert(w, &sl)
			c := change{rows.key(at), v.In.Base, time.Now()}
			w.Commit()
			made <- c
		}
	}()
	for c := range made {
		for {
			var v loader.BPFService
			if err := m.Lookup(c.key, &v); err != nil {
				return nil, 0, 0, fmt.Errorf("look a service up: %w", err)
			}
			if v.In.Base != c.base {
				break
			}
			if time.Since(c.at) > time.Minute {
				return nil, 0, 0, errors.New("a change does not appear in the kernel")
			}
			time.Sleep(100 * time.Microsecond)
		}
		delays = append(delays, float64(time.Since(c.at).Microseconds())/1000)
	}
	rss, anon = memory()
	return delays, rss, anon, nil
}

// balancerOver starts a load balancer over tb, in a namespace of its own and without hooks, and returns its services map.
func balancerOver(s *scope, tb *tables.Tables) (*ebpf.Map, error) {
	l, err := start(s, nettest.NewNS(s, "p"), tb, func(*loadbalancer.Config) {})
	if err != nil {
		return nil, err
	}
	pins := loader.MapDir(l.PinDir())
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, loader.BPFMapServices), nil)
	if err != nil {
		return nil, err
	}
	s.Cleanup(func() { m.Close() })
	return m, nil
}

// progTable is the rows of the measurement.
type progTable struct {
	services []*tables.Service
	slices   []*tables.EndpointSlice
}

func progRows(endpoints int) progTable {
	var p progTable
	for i := range progServices {
		name := fmt.Sprintf("s%d", i)
		p.services = append(p.services, &tables.Service{
			Name: tables.Name{Namespace: "bench", Name: name}, ClusterIPs: []netip.Addr{vip(i)}, Ports: []tables.ServicePort{{Protocol: tables.TCP, Port: 80}},
		})
		sl := &tables.EndpointSlice{
			Name: tables.Name{Namespace: "bench", Name: name + "-1"}, Service: name, Ports: []tables.EndpointPort{{Protocol: tables.TCP, Port: 8080}},
		}
		for e := range endpoints {
			sl.Endpoints = append(sl.Endpoints, tables.Endpoint{
				Addr: netip.AddrFrom4([4]byte{10, 128 + byte(e), byte(i >> 8), byte(i)}), Conditions: tables.Ready | tables.Serving, NodeName: "n2",
			})
		}
		p.slices = append(p.slices, sl)
	}
	return p
}

func (p progTable) insert(tb *tables.Tables, w statedb.WriteTxn) {
	for i := range p.services {
		_, _, _ = tb.Services.Insert(w, p.services[i])
		_, _, _ = tb.EndpointSlices.Insert(w, p.slices[i])
	}
}

func (p progTable) key(i int) loader.BPFServiceKey {
	return loader.BPFServiceKey{Addr: loader.Addr(p.services[i].ClusterIPs[0].As16()), Port: loader.Htons(80), Proto: uint8(tables.TCP)}
}

// memory returns this process's resident and anonymous memory in MB.
func memory() (rss, anon float64) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	for _, line := range strings.Split(string(data), "\n") {
		var kb float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f", &kb); err == nil {
			rss = kb / 1000
		}
		if _, err := fmt.Sscanf(line, "RssAnon: %f", &kb); err == nil {
			anon = kb / 1000
		}
	}
	return rss, anon
}
