// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2/ktesting"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
	"github.com/fairlead/fairlead/hack/await"
)

// testNode is one node: a network namespace, a cgroup2 directory and a bpffs of its own, with Run going in it.
type testNode struct {
	t      testing.TB
	ns     netns.NsHandle
	cgroup string
	dir    string
	loader *loader.Loader
	tables *tables.Tables
	cfg    Config
	cancel context.CancelFunc
	done   chan error
}

// newNS makes a network namespace with loopback up.
func newNS(t testing.TB) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	host, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace (needs root): %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if serr := netns.Set(host); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// inNS runs f on a thread in the namespace, and in the cgroup if one is given. The thread is not reused.
func inNS(t testing.TB, ns netns.NsHandle, cgroup string, f func() error) {
	t.Helper()
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := errors.New("ended by a failed check")
		defer func() { errc <- err }()
		if nerr := netns.Set(ns); nerr != nil {
			err = nerr
			return
		}
		err = f()
	}()
	if err := <-errc; err != nil {
		t.Helper()
		t.Fatal(err)
	}
}

// joinCgroup moves the whole test process into a fresh cgroup2 directory and returns it. Nodes of several tests in one process share it in turn.
func joinCgroup(t testing.TB) string {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root = "/sys/fs/cgroup/unified"
	}
	old := "/"
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if s, ok := strings.CutPrefix(line, "0::"); ok {
			old = s
		}
	}
	dir, err := os.MkdirTemp(root, "fl-lb-")
	if err != nil {
		t.Fatalf("make a cgroup2 directory: %v", err)
	}
	pid := []byte(fmt.Sprint(os.Getpid()))
	if err := os.WriteFile(dir+"/cgroup.procs", pid, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(root, old, "cgroup.procs"), pid, 0); err != nil {
			t.Error(err)
		}
		_ = os.Remove(dir)
	})
	return dir
}

// leaveCgroup moves the process out of the node's cgroup: a client outside has no socket hooks.
func leaveCgroup(t testing.TB) {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root = "/sys/fs/cgroup/unified"
	}
	if err := os.WriteFile(root+"/cgroup.procs", []byte(fmt.Sprint(os.Getpid())), 0); err != nil {
		t.Fatal(err)
	}
}

func newNode(t testing.TB) *testNode {
	t.Helper()
	n := &testNode{t: t, ns: newNS(t), dir: t.TempDir()}
	n.cgroup = joinCgroup(t)
	pins := filepath.Join(n.dir, "bpf")
	var err error
	if n.loader, err = loader.Open(loader.Config{PinDir: pins, MapSizes: testSizes}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.loader.Uninstall(); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(pins, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if n.tables, err = tables.New(); err != nil {
		t.Fatal(err)
	}
	n.cfg = Config{Tables: n.tables, Loader: n.loader, NodeName: "n1", CgroupRoot: n.cgroup, StateDir: n.dir}
	return n
}

var testSizes = map[string]uint32{
	loader.BPFMapServices: 65536, loader.BPFMapBackends: 65536, loader.BPFMapBackendLoads: 65536, loader.BPFMapSlots: 65536,
	loader.BPFMapCtTcp: 16384, loader.BPFMapCtAny: 16384, loader.BPFMapAffinities: 4096, loader.BPFMapSockRevs: 4096,
}

// start runs the load balancer and waits until it has programmed what the tables hold.
func (n *testNode) start() {
	n.t.Helper()
	_, ctx := ktesting.NewTestContext(n.t)
	ctx, n.cancel = context.WithCancel(ctx)
	n.done = make(chan error, 1)
	synced := make(chan struct{})
	cfg := n.cfg
	cfg.OnSynced = func() { close(synced) }
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(n.ns); err != nil {
			n.done <- err
			return
		}
		n.done <- Run(ctx, cfg)
	}()
	select {
	case <-synced:
	case err := <-n.done:
		n.t.Fatalf("load balancer ended: %v", err)
	case <-time.After(time.Minute): // an emulated machine's verifier takes half of it
		n.t.Fatal("load balancer did not sync")
	}
}

func (n *testNode) halt() {
	n.t.Helper()
	n.cancel()
	select {
	case err := <-n.done:
		if err != nil {
			n.t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		n.t.Fatal("Run did not end")
	}
}

// put upserts rows.
func (n *testNode) put(rows ...any) {
	n.t.Helper()
	putRows(n.t, n.tables, rows...)
}

func putRows(t testing.TB, tb *tables.Tables, rows ...any) {
	t.Helper()
	w := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices, tb.Nodes, tb.Answers)
	defer w.Commit()
	var err error
	for _, r := range rows {
		switch r := r.(type) {
		case *tables.Service:
			_, _, err = tb.Services.Insert(w, r)
		case *tables.EndpointSlice:
			_, _, err = tb.EndpointSlices.Insert(w, r)
		case *tables.Node:
			_, _, err = tb.Nodes.Insert(w, r)
		case *tables.Answer:
			_, _, err = tb.Answers.Insert(w, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (n *testNode) deleteService(name tables.Name) {
	w := n.tables.DB.WriteTxn(n.tables.Services)
	defer w.Commit()
	if s, _, ok := n.tables.Services.Get(w, tables.ServiceByName.Query(name)); ok {
		_, _, _ = n.tables.Services.Delete(w, s)
	}
}

func eventually(t testing.TB, f func() error) {
	t.Helper()
	await.Nil(t, 10*time.Second, f)
}

func svc(name string, port uint16, proto tables.Protocol, ips ...string) *tables.Service {
	s := &tables.Service{Name: tables.Name{Namespace: "default", Name: name}, Ports: []tables.ServicePort{{Name: "p", Protocol: proto, Port: port}}}
	for _, ip := range ips {
		s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(ip))
	}
	return s
}

// slice makes a slice of ready endpoints addr:port on node n1.
func slice(service string, proto tables.Protocol, eps ...string) *tables.EndpointSlice {
	s := &tables.EndpointSlice{Name: tables.Name{Namespace: "default", Name: service + "-1"}, Service: service}
	for _, e := range eps {
		ap := netip.MustParseAddrPort(e)
		s.IPv6 = ap.Addr().Is6()
		if s.IPv6 {
			s.Name.Name = service + "-6"
		}
		s.Ports = []tables.EndpointPort{{Name: "p", Protocol: proto, Port: ap.Port()}}
		s.Endpoints = append(s.Endpoints, tables.Endpoint{Addr: ap.Addr(), NodeName: "n1", Conditions: tables.Ready | tables.Serving})
	}
	return s
}

// dump reads the services map through its pin, without the entries of the node's own addresses.
func (n *testNode) dump() map[loader.BPFServiceKey]loader.BPFService {
	n.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(loader.MapDir(n.loader.PinDir()), loader.BPFMapServices), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	defer m.Close()
	all, err := (&kernel{services: m}).dump()
	if err != nil {
		n.t.Fatal(err)
	}
	for k, v := range all {
		if v.Flags&flagNode != 0 {
			delete(all, k)
		}
	}
	return all
}

func openPinned(l *loader.Loader, name string) (*ebpf.Map, error) {
	return ebpf.LoadPinnedMap(filepath.Join(loader.MapDir(l.PinDir()), name), nil)
}
