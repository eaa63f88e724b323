// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netns"

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

// TestUpgradeOfLayout: a release whose connection tables differ in layout replaces another, under load and with connections open, and stops half-way: one device has the new
// programs, the other the old ones, and whatever begins there is answered by programs of the other release. No connect fails, and no connection ends, whichever step it began at.
func TestUpgradeOfLayout(t *testing.T) {
	for _, c := range []struct{ mode, family, first string }{
		{"tcx", "IPv4", "up"}, {"tcx", "IPv6", "down"}, {"xdp", "IPv4", "down"}, {"xdp", "IPv6", "up"}, {"clsact", "IPv4", "up"},
	} {
		t.Run(c.mode+"/"+c.family+"/"+c.first+" first", func(t *testing.T) { upgradeLayout(t, c.mode, c.family, c.first) })
	}
}

func upgradeLayout(t *testing.T, mode, family, first string) {
	vip, node, local, far := "10.96.0.%d", "192.0.2.1", "198.51.100.1", "198.51.100.2"
	if family == "IPv6" {
		vip, node, local, far = "fd00:96::%d", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:2::2"
	}
	join := func(a string, port int) string { return net.JoinHostPort(a, fmt.Sprint(port)) }
	o := newOutside(t, mode)
	n := o.node
	sizes := maps.Clone(testSizes)
	sizes[loader.BPFMapCtTcp] = 1 << 18 // room for all that the load can begin in a minute
	release := func() {
		t.Helper()
		var err error
		if n.loader, err = loader.Open(loader.Config{PinDir: n.loader.PinDir(), MapSizes: sizes, NoTCX: mode == "clsact"}); err != nil {
			t.Fatal(err)
		}
		n.cfg.Loader = n.loader
	}
	release()
	// The client is outside. Of each pair of services one has its backend elsewhere, and every packet needs the source translated, the other here.
	for i, s := range []struct {
		name, addr string
		port       int
		elsewhere  bool
	}{
		{"far", far, 8080, true}, {"near", local, 8080, false}, {"far-echo", far, 8081, true}, {"near-echo", local, 8081, false},
	} {
		sl := slice(s.name, tables.TCP, join(s.addr, s.port))
		if s.elsewhere {
			sl = remote(sl)
		}
		n.put(nodePort(svc(s.name, 80, tables.TCP, fmt.Sprintf(vip, 10+i)), uint16(30081+i)), sl)
	}
	n.start()
	for ns, addr := range map[netns.NsHandle]string{o.server: far, n.ns: local} {
		inNS(t, ns, "", func() error {
			return errors.Join(serveTCP(t, join(addr, 8080), "short"), echoTCP(t, join(addr, 8081)))
		})
	}
	leaveCgroup(t)
	var open []net.Conn
	dial := func(when string) {
		t.Helper()
		inNS(t, o.client, "", func() error {
			for i := range 10 {
				to := join(node, 30083+i%2)
				c, err := net.DialTimeout("tcp", to, 5*time.Second)
				if err != nil {
					return fmt.Errorf("%s: connect to %s: %w", when, to, err)
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
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, err := c.Write([]byte("ping"))
			if err == nil {
				_, err = io.ReadFull(c, buf)
			}
			if err != nil || string(buf) != "ping" {
				t.Fatalf("%s: connection %d: %q %v", when, i, buf, err)
			}
		}
	}
	dial("before")
	say("before")
	clients := &testNode{t: t, ns: o.client}
	stops := []func() (int64, error){clients.load(join(node, 30081), 1, nil), clients.load(join(node, 30082), 1, nil)}
	n.halt()

	// The next release: its maps have another directory, and its connection tables another shape, so they cannot be shared.
	mapDir := loader.MapDir(n.loader.PinDir())
	oldDir := filepath.Join(filepath.Dir(mapDir), "maps-v0")
	if err := os.Rename(mapDir, oldDir); err != nil {
		t.Fatal(err)
	}
	sizes[loader.BPFMapCtTcp] *= 2
	release()
	spec, err := loader.LoadBPF()
	if err != nil {
		t.Fatal(err)
	}
	copied, err := n.loader.Load(spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := copied.Maps[loader.BPFMapCtTcp].MaxEntries(); got != sizes[loader.BPFMapCtTcp] {
		t.Fatalf("the connection table is the old one: %d entries", got)
	}
	copied.Close()
	dial("between copy and replacement") // the old programs write to the old table
	say("between copy and replacement")
	both := n.cfg.Uplinks
	n.cfg.Uplinks = []string{first}
	n.start()
	say("half-way")
	dial("half-way")
	say("half-way, with new ones")
	n.halt() // killed there, the next agent begins again
	n.cfg.Uplinks = both
	n.start()
	say("before settling")
	dial("before settling")
	if err := n.loader.Settle(); err != nil {
		t.Fatal(err)
	}
	say("after")
	dial("after")
	say("new ones after")
	for _, stop := range stops {
		worked, err := stop()
		if err != nil {
			t.Fatalf("after %d connections: %v", worked, err)
		}
		if worked < 50 {
			t.Fatalf("only %d connections in all: the test proves nothing", worked)
		}
		t.Logf("%d short connections, %d long ones, none failed", worked, len(open))
	}
	n.halt()
	if _, err := os.Stat(oldDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old layout's maps were left behind: %v", err)
	}
}
