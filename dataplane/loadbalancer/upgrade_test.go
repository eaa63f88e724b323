// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// echoTCP sends back what it gets, on every connection. It listens in the calling thread's namespace.
func echoTCP(t testing.TB, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return nil
}

// TestUpgradeOfLayout: a release whose connection tables differ in layout replaces another, under load and with connections open: all of them go on, those too that began
// while the old programs still ran after the tables had been copied, and no connect fails. The client is outside, the backend elsewhere: every packet needs the tables.
func TestUpgradeOfLayout(t *testing.T) {
	o := newOutside(t, "tcx")
	n := o.node
	n.put(nodePort(svc("far", 81, tables.TCP, "10.96.0.10"), 30081), remote(slice("far", tables.TCP, "198.51.100.2:8080")),
		nodePort(svc("echo", 82, tables.TCP, "10.96.0.11"), 30082), remote(slice("echo", tables.TCP, "198.51.100.2:8081")))
	n.start()
	inNS(t, o.server, "", func() error {
		if err := serveTCP(t, "198.51.100.2:8080", "far"); err != nil {
			return err
		}
		return echoTCP(t, "198.51.100.2:8081")
	})
	leaveCgroup(t)
	var open []net.Conn
	dial := func() {
		t.Helper()
		inNS(t, o.client, "", func() error {
			for range 10 {
				c, err := net.DialTimeout("tcp", "192.0.2.1:30082", 2*time.Second)
				if err != nil {
					return err
				}
				t.Cleanup(func() { c.Close() })
				open = append(open, c)
			}
			return nil
		})
	}
	say := func(when string) {
		t.Helper()
		buf := make([]byte, 4)
		for i, c := range open {
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			_, err := c.Write([]byte("ping"))
			if err == nil {
				_, err = io.ReadFull(c, buf)
			}
			if err != nil || string(buf) != "ping" {
				t.Fatalf("%s: connection %d: %q %v", when, i, buf, err)
			}
		}
	}
	dial()
	say("before")
	clients := &testNode{t: t, ns: o.client}
	stop := clients.load("192.0.2.1:30081", 2, nil)
	n.halt()

	// The next release: its maps have another directory, and its connection tables another shape, so they cannot be shared.
	mapDir := loader.MapDir(n.loader.PinDir())
	if err := os.Rename(mapDir, filepath.Join(filepath.Dir(mapDir), "maps-v0")); err != nil {
		t.Fatal(err)
	}
	sizes := maps.Clone(testSizes)
	sizes[loader.BPFMapCtTcp] *= 2
	next, err := loader.Open(loader.Config{PinDir: n.loader.PinDir(), MapSizes: sizes})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := loader.LoadBPF()
	if err != nil {
		t.Fatal(err)
	}
	first, err := next.Load(spec, nil) // copies
	if err != nil {
		t.Fatal(err)
	}
	if got := first.Maps[loader.BPFMapCtTcp].MaxEntries(); got != sizes[loader.BPFMapCtTcp] {
		t.Fatalf("the connection table is the old one: %d entries", got)
	}
	first.Close()
	dial() // the old programs write to the old table
	say("between copy and replacement")
	n.cfg.Loader, n.loader = next, next
	n.start()
	if err := next.Settle(); err != nil {
		t.Fatal(err)
	}
	say("after")
	dial()
	say("new ones after")
	worked, err := stop()
	n.halt()
	if err != nil {
		t.Fatalf("after %d connections: %v", worked, err)
	}
	if worked < 100 {
		t.Fatalf("only %d connections in all: the test proves nothing", worked)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(mapDir), "maps-v0")); err == nil {
		t.Error("the old layout's maps were left behind")
	}
	t.Logf("%d short connections, %d long ones, none failed", worked, len(open))
}
