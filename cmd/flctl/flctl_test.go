// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// program fills maps below a fresh pin directory with two services, by the real load balancer, and ends it: flctl must do without.
func program(t *testing.T) (pins, state string) {
	t.Helper()
	pins, state = filepath.Join(t.TempDir(), "bpf"), t.TempDir()
	l, err := loader.Open(loader.Config{PinDir: pins, MapSizes: map[string]uint32{"services": 1024, "backends": 1024, "backend_loads": 1024, "slots": 4096, "ct_tcp": 1024, "ct_any": 1024}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Uninstall()
		_ = unix.Unmount(pins, unix.MNT_DETACH)
	})
	tb, err := tables.New()
	if err != nil {
		t.Fatal(err)
	}
	w := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices)
	name := tables.Name{Namespace: "default", Name: "web"}
	_, _, err = tb.Services.Insert(w, &tables.Service{
		Name: name, Type: tables.NodePort, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.7")},
		Ports: []tables.ServicePort{{Name: "http", Protocol: tables.TCP, Port: 80, NodePort: 30080}},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = tb.EndpointSlices.Insert(w, &tables.EndpointSlice{
		Name: tables.Name{Namespace: "default", Name: "web-1"}, Service: "web", Ports: []tables.EndpointPort{{Name: "http", Protocol: tables.TCP, Port: 8080}},
		Endpoints: []tables.Endpoint{
			{Addr: netip.MustParseAddr("10.244.0.3"), Conditions: tables.Ready | tables.Serving, Target: tables.ObjectRef{Namespace: "default", Name: "web-abc"}},
			{Addr: netip.MustParseAddr("10.244.0.4"), Conditions: tables.Ready | tables.Serving},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Commit()
	ctx, cancel := context.WithCancel(context.Background())
	synced := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- loadbalancer.Run(ctx, loadbalancer.Config{Tables: tb, Loader: l, NodeName: "n1", StateDir: state, OnSynced: func() { close(synced) }})
	}()
	select {
	case <-synced:
	case err := <-done:
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Fatal("not synced")
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if n, err := loadbalancer.ReadNames(state); err == nil && len(n.Services) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no names file")
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return pins, state
}

func flctl(t *testing.T, pins, state string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot(&environment{out: &out, err: &out})
	root.SetArgs(append(args, "--pin-dir", pins, "--state-dir", state))
	err := root.Execute()
	return out.String(), err
}

func TestCommands(t *testing.T) {
	pins, state := program(t)
	for _, c := range []struct {
		args string
		want []string
	}{
		{"lb list", []string{"default/web:http", "10.96.0.7:80", "ClusterIP", "0.0.0.0:30080", "NodePort", "random"}},
		{"lb list -o wide", []string{"FLAGS", "external"}},
		{"lb show default/web", []string{"10.96.0.7:80", "10.244.0.3:8080", "default/web-abc", "cluster,live"}},
		{"lb backends", []string{"10.244.0.4:8080"}},
		{"lb maglev default/web", []string{"251", "10.244.0.3:8080", "%"}},
		{"ct list", []string{"SERVICE"}},
		{"nat list", []string{"SOURCE"}},
		{"map list", []string{"services", "Hash", "ct_tcp"}},
		{"map dump services", []string{"addr=10.96.0.7", "port=80"}},
		{"map dump backends", []string{"addr=10.244.0.3"}},
		{"map lookup backends 1", []string{"addr=10.244.0."}},
		{"metrics --all", []string{"drop/no_backend", "lb/forwarded"}},
		{"status", []string{"frontends", "2", "1024"}},
		{"verify", []string{"no difference"}},
		{"lb list -o yaml", []string{"service: default/web:http"}},
	} {
		out, err := flctl(t, pins, state, strings.Fields(c.args)...)
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
		}
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: no %q in\n%s", c.args, w, out)
			}
		}
	}
	out, err := flctl(t, pins, state, "lb", "list", "-o", "json")
	var views []frontendView
	if err != nil || json.Unmarshal([]byte(out), &views) != nil || len(views) != 2 || views[1].Inside != 2 {
		t.Errorf("lb list -o json: %v\n%s", err, out)
	}
	for _, args := range []string{"lb show default/none", "map dump none", "map lookup services 00", "ct flush", "lb list -o xml"} {
		if _, err := flctl(t, pins, state, strings.Fields(args)...); err == nil {
			t.Errorf("%s: no error", args)
		}
	}
	if _, err := flctl(t, filepath.Join(pins, "elsewhere"), state, "lb", "list"); err == nil || !strings.Contains(err.Error(), "--pin-dir") {
		t.Errorf("absent pins: %v", err)
	}
}

// TestVerifyFinds: each kind of damage is named.
func TestVerifyFinds(t *testing.T) {
	pins, state := program(t)
	env := &environment{pinDir: pins, stateDir: state}
	m, err := env.openMap(loader.BPFMapBackends)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	rows, unmap, err := loader.Shared[loader.BPFBackend](m)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unmap() }()
	good := rows[1]
	check := func(what string) {
		t.Helper()
		out, err := flctl(t, pins, state, "verify")
		if err == nil || !strings.Contains(out, what) {
			t.Errorf("verify: %v, want it to say %q:\n%s", err, what, out)
		}
	}
	rows[1].Service = 99
	check("a backend of #99")
	rows[1] = good
	rows[1].Flags = 0
	check("which takes no connections")
	rows[1] = good
	services, err := env.openMap(loader.BPFMapServices)
	if err != nil {
		t.Fatal(err)
	}
	defer services.Close()
	a := netip.MustParseAddr("10.96.0.7")
	if err := services.Delete(loader.BPFServiceKey{Addr: loader.Addr(a.As16()), Port: loader.Htons(80), Proto: 6}); err != nil {
		t.Fatal(err)
	}
	check("frontend 10.96.0.7:80 is not in the kernel")
	if err := os.Remove(filepath.Join(state, loadbalancer.NamesFile)); err != nil {
		t.Fatal(err)
	}
	if out, err := flctl(t, pins, state, "verify"); err != nil {
		t.Errorf("without names: %v\n%s", err, out)
	}
}

func TestHealthReadsTheAgentsReport(t *testing.T) {
	dir := t.TempDir()
	show := func(args ...string) (string, error) {
		var out bytes.Buffer
		root := newRoot(&environment{out: &out, err: &out})
		root.SetArgs(append([]string{"health", "--run-dir", dir}, args...))
		err := root.Execute()
		return out.String(), err
	}
	if _, err := show(); err == nil || !strings.Contains(err.Error(), "--run-dir") {
		t.Errorf("without a report: %v", err)
	}
	report := `[{"node":"worker-1","addr":"10.244.1.1","reachable":true,"latency":187654,"sent":9,"lost":0},{"node":"worker-2","addr":"fd00::1","reachable":false,"latency":0,"sent":9,"lost":9}]`
	if err := os.WriteFile(filepath.Join(dir, "peers.json"), []byte(report), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := show()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out, "\n")
	if f := strings.Fields(lines[1]); strings.Join(f, " ") != "worker-1 10.244.1.1 reachable 188µs" {
		t.Errorf("%q", f)
	}
	if f := strings.Fields(lines[2]); strings.Join(f, " ") != "worker-2 fd00::1 unreachable -" {
		t.Errorf("%q", f)
	}
	if out, err := show("-o", "json"); err != nil || !strings.Contains(out, `"node": "worker-2"`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestMonitor: a packet that the uplink's programs drop is told with its reason and addresses; afterwards nobody listens.
func TestMonitor(t *testing.T) {
	pins, state := program(t)
	l, err := loader.Open(loader.Config{PinDir: pins})
	if err != nil {
		t.Fatal(err)
	}
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){loader.UplinkProgUplinkIn: loader.LoadUplink, loader.XDPProgUplinkXdp: loader.LoadXDP} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		coll, err := l.Load(spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer coll.Close()
		env := &environment{pinDir: pins, stateDir: state}
		listener, err := env.openMap(loader.BPFMapDropListener)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		type result struct {
			out string
			err error
		}
		done := make(chan result, 1)
		go func() {
			out, err := flctl(t, pins, state, "monitor", "--count", "1", "-o", "json")
			done <- result{out, err}
		}()
		// A service address answers pings, but not requests for the time of day: ICMP type 13.
		frame := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 1, 0, 0, 198, 51, 100, 9, 10, 96, 0, 7, 13}, make([]byte, 19)...)
		var got result
		for deadline := time.Now().Add(10 * time.Second); ; {
			var pid uint32
			if err := listener.Lookup(uint32(0), &pid); err != nil {
				t.Fatal(err)
			}
			if pid != 0 {
				if v, err := coll.Programs[name].Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, 256)}); err != nil || v != 1 && v != 2 {
					t.Fatalf("%s: verdict %d, %v", name, v, err)
				}
			}
			select {
			case got = <-done:
			case <-time.After(5 * time.Millisecond):
				if time.Now().After(deadline) {
					t.Fatal("monitor tells nothing")
				}
				continue
			}
			break
		}
		var v dropView
		if got.err != nil || json.Unmarshal([]byte(got.out), &v) != nil {
			t.Fatalf("%s: %v\n%s", name, got.err, got.out)
		}
		if v.Reason != "no_service" || v.From != "198.51.100.9" || v.To != "10.96.0.7" || v.Protocol != "ICMP" || v.Device != "lo" || v.Length != uint32(len(frame)) {
			t.Errorf("%s: %+v", name, v)
		}
		var pid uint32
		if err := listener.Lookup(uint32(0), &pid); err != nil || pid != 0 {
			t.Errorf("%s: still listening: %d %v", name, pid, err)
		}
	}
}
