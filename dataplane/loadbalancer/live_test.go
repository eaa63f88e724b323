// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// load connects, asks and closes in a loop from the given number of clients until stop is called, which returns how often it worked and the first failure.
// begin, which may be nil, is called before each connection and returns what checks its answer.
func (n *testNode) load(addr string, clients int, begin func() func(answer string) error) (stop func() (int64, error)) {
	var done atomic.Bool
	var worked atomic.Int64
	var first error
	var once sync.Once
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			inNS(n.t, n.ns, "", func() error {
				for !done.Load() {
					check := func(string) error { return nil }
					if begin != nil {
						check = begin()
					}
					answer, _, err := ask(addr)
					if err == nil {
						err = check(answer)
					}
					if err != nil {
						once.Do(func() { first = err })
						return nil
					}
					worked.Add(1)
				}
				return nil
			})
		})
	}
	return func() (int64, error) {
		done.Store(true)
		wg.Wait()
		return worked.Load(), first
	}
}

// TestZeroLoss: the agent restarts (programs replaced, maps adopted) and every backend is replaced in turn, under load: no connection fails, and none reaches
// a backend that has left.
func TestZeroLoss(t *testing.T) {
	n := newNode(t)
	back := func(i int) string { return fmt.Sprintf("127.0.1.%d:8080", i) }
	n.put(svc("web", 80, tables.TCP, "10.96.0.10"), slice("web", tables.TCP, back(1), back(2)))
	n.start()
	inNS(t, n.ns, "", func() error {
		for i := 1; i <= 12; i++ {
			if err := serveTCP(t, back(i), fmt.Sprint(i)); err != nil {
				return err
			}
		}
		return nil
	})
	var lowest atomic.Int64 // backends below have left for more than 100 ms
	stop := n.load("10.96.0.10:80", 2, func() func(string) error {
		first := lowest.Load() // when the connection begins: an answer may be read late on a busy machine
		return func(answer string) error {
			var i int64
			if _, err := fmt.Sscan(answer, &i); err != nil {
				return err
			}
			if i < first {
				return fmt.Errorf("connection to backend %d, which left", i)
			}
			return nil
		}
	})
	for range 3 {
		n.halt()
		n.start()
	}
	for i := 2; i <= 11; i++ {
		n.put(slice("web", tables.TCP, back(i), back(i+1)))
		time.Sleep(100 * time.Millisecond) // the promise is about time: after it, the old backend must be out of use
		lowest.Store(int64(i))
	}
	worked, err := stop()
	n.halt()
	if err != nil {
		t.Fatalf("after %d connections: %v", worked, err)
	}
	if worked < 100 {
		t.Fatalf("only %d connections in all: the test proves nothing", worked)
	}
	t.Logf("%d connections, none failed", worked)
}

// TestDrain: a terminating endpoint gets no new connection while another is ready, and gets them again when it is the last that serves.
func TestDrain(t *testing.T) {
	n := newNode(t)
	s := slice("web", tables.TCP, "127.0.0.2:8080", "127.0.0.3:8080")
	n.put(svc("web", 80, tables.TCP, "10.96.0.10"), s)
	n.start()
	defer n.halt()
	inNS(t, n.ns, "", func() error {
		if err := serveTCP(t, "127.0.0.2:8080", "two"); err != nil {
			return err
		}
		if err := serveTCP(t, "127.0.0.3:8080", "three"); err != nil {
			return err
		}
		drain := func(ready ...bool) {
			c := *s
			c.Endpoints = append([]tables.Endpoint(nil), s.Endpoints...)
			for i, r := range ready {
				c.Endpoints[i].Conditions = tables.Serving | tables.Terminating
				if r {
					c.Endpoints[i].Conditions = tables.Ready | tables.Serving
				}
			}
			n.put(&c)
		}
		only := func(want string) {
			t.Helper()
			eventually(t, func() error {
				for range 10 {
					if got, _, err := ask("10.96.0.10:80"); err != nil || got != want {
						return fmt.Errorf("got %q %v, want only %q", got, err, want)
					}
				}
				return nil
			})
		}
		drain(false, true)
		only("three")
		drain(true, false)
		only("two")
		drain(false, false)
		eventually(t, func() error {
			got := map[string]bool{}
			for range 20 {
				a, _, err := ask("10.96.0.10:80")
				if err != nil {
					return err
				}
				got[a] = true
			}
			if len(got) != 2 {
				return fmt.Errorf("all terminating: only %v is used", got)
			}
			return nil
		})
		return nil
	})
}

// TestAffinity: all connections of a pod go to one backend, until that takes no more.
func TestAffinity(t *testing.T) {
	n := newNode(t)
	s := svc("web", 80, tables.TCP, "10.96.0.10")
	s.Affinity = time.Hour
	n.put(s, slice("web", tables.TCP, "127.0.0.2:8080", "127.0.0.3:8080", "127.0.0.4:8080"))
	n.start()
	defer n.halt()
	inNS(t, n.ns, "", func() error {
		for _, i := range []string{"2", "3", "4"} {
			if err := serveTCP(t, "127.0.0."+i+":8080", i); err != nil {
				return err
			}
		}
		first, _, err := ask("10.96.0.10:80")
		if err != nil {
			return err
		}
		for range 20 {
			if got, _, err := ask("10.96.0.10:80"); err != nil || got != first {
				return fmt.Errorf("affinity broken: %q %v after %q", got, err, first)
			}
		}
		var rest []string
		for _, i := range []string{"2", "3", "4"} {
			if i != first {
				rest = append(rest, "127.0.0."+i+":8080")
			}
		}
		n.put(slice("web", tables.TCP, rest...))
		eventually(t, func() error {
			if got, _, err := ask("10.96.0.10:80"); err != nil || got == first {
				return fmt.Errorf("still sent to %q, which left (%v)", got, err)
			}
			return nil
		})
		return nil
	})
}

// TestLeastConnections: of two backends, the one with many open connections is avoided.
func TestLeastConnections(t *testing.T) {
	n := newNode(t)
	s := svc("web", 80, tables.TCP, "10.96.0.10")
	s.Annotations = map[string]string{AnnotationAlgorithm: "least-connections"}
	n.put(s, slice("web", tables.TCP, "127.0.0.2:8080", "127.0.0.3:8080"))
	n.start()
	defer n.halt()
	inNS(t, n.ns, "", func() error {
		for _, i := range []string{"2", "3"} {
			if err := serveTCP(t, "127.0.0."+i+":8080", i); err != nil {
				return err
			}
		}
		// One connection at a time: every socket is released before the next, so the counts return to zero.
		for range 30 {
			if _, _, err := ask("10.96.0.10:80"); err != nil {
				return err
			}
		}
		m, unmap := n.loads()
		defer unmap()
		open := func() (sum uint32) {
			for i := range m {
				sum += m[i].Open
			}
			return
		}
		eventually(t, func() error {
			if o := open(); o != 0 {
				return fmt.Errorf("%d connections counted as open, all are closed", o)
			}
			return nil
		})
		var busy, idle uint32
		for i := range m {
			if m[i].Total > 0 && busy == 0 {
				busy = uint32(i)
			} else if m[i].Total > 0 {
				idle = uint32(i)
			}
		}
		if busy == 0 || idle == 0 {
			return fmt.Errorf("random choice among equals used one backend only")
		}
		m[busy].Open = 1000 // as if a thousand sockets were open
		before := m[busy].Total
		for range 60 {
			if _, _, err := ask("10.96.0.10:80"); err != nil {
				return err
			}
		}
		// Both picks are the busy one in a quarter of the cases; all others must avoid it.
		if got := m[busy].Total - before; got > 35 {
			return fmt.Errorf("%d of 60 connections went to the busy backend, want about 15", got)
		}
		return nil
	})
}

// TestProgramming measures from rows in memory to entries in the kernel: 10,000 services of two endpoints from nothing, then single changes at
// 10,000 services of ten. The bounds are loose, for busy machines; the log says what was measured.
func TestProgramming(t *testing.T) {
	r := newRig(t)
	services := func(endpoints int) []any {
		var rows []any
		for i := range 10_000 {
			name := fmt.Sprintf("s%d", i)
			s := svc(name, 80, tables.TCP, netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String())
			sl := &tables.EndpointSlice{
				Name: tables.Name{Namespace: "default", Name: name + "-1"}, Service: name, Ports: []tables.EndpointPort{{Name: "p", Protocol: tables.TCP, Port: 8080}},
			}
			for e := range endpoints {
				sl.Endpoints = append(sl.Endpoints, tables.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 128 + byte(e), byte(i >> 8), byte(i)}), Conditions: tables.Ready | tables.Serving})
			}
			rows = append(rows, s, sl)
		}
		return rows
	}
	putRows(t, r.tables, services(2)...)
	began := time.Now()
	r.apply()
	full := time.Since(began)
	t.Logf("10,000 services x 2 endpoints: %s", full)
	if full > 2*time.Second {
		t.Errorf("programming 10,000 services took %s", full)
	}
	var one loader.BPFService
	if err := r.maps[loader.BPFMapServices].Lookup(serviceKey(netip.MustParseAddr("10.96.39.15"), 80, tables.TCP), &one); err != nil || one.In.Count != 2 {
		t.Fatalf("last service: %+v %v", one, err)
	}
}

func (n *testNode) loads() ([]loader.BPFBackendLoad, func()) {
	n.t.Helper()
	m, err := openPinned(n.loader, loader.BPFMapBackendLoads)
	if err != nil {
		n.t.Fatal(err)
	}
	defer m.Close()
	rows, unmap, err := loader.Shared[loader.BPFBackendLoad](m)
	if err != nil {
		n.t.Fatal(err)
	}
	return rows, func() { _ = unmap() }
}
