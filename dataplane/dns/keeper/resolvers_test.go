// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/dns/dnstest"
	"github.com/fairlead/fairlead/dataplane/tables"
)

const (
	insideEnv  = "FAIRLEAD_TEST_INSIDE"  // set in the process that has a network of its own
	lookupsEnv = "FAIRLEAD_TEST_LOOKUPS" // look-ups of each resolver instead of the default
)

// TestResolvers looks names up with the resolvers of glibc and musl, and with pairs of A and AAAA questions from one port as c-ares sends them, through /etc/resolv.conf, search list and port 53
// like a pod's, in a network and mount namespace of its own. No look-up may fail or wait for a repetition.
func TestResolvers(t *testing.T) {
	if os.Getenv(insideEnv) != "" {
		t.Skip("this is the process inside")
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dnstest.BuildResolvers(dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestResolversInside$", "-test.v", "-test.timeout=20m")
	cmd.Env = append(os.Environ(), insideEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL} // it ends with this process, however that ends
	runtime.LockOSThread()                                                                                            // whose end would count as this process's
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "look-ups") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// TestResolversInside is the part of TestResolvers that runs in namespaces of its own.
func TestResolversInside(t *testing.T) {
	dir := os.Getenv(insideEnv)
	if dir == "" {
		t.Skip("a part of TestResolvers")
	}
	lookups := 2000
	if s := os.Getenv(lookupsEnv); s != "" {
		var err error
		if lookups, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	upstream, err := net.ListenPacket("udp", "127.0.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	go (&mdns.Server{PacketConn: upstream, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, r *mdns.Msg) {
		m := new(mdns.Msg).SetReply(r)
		if q := r.Question[0]; q.Name == "www.example.com." && q.Qtype == mdns.TypeA {
			m.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: q.Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 30}, A: net.IPv4(192, 0, 2, 80)}}
		}
		_ = w.WriteMsg(m) // a lost answer shows as a slow look-up
	})}).ActivateAndServe()

	n := newNode(t)
	n.port, n.cfg.Settings.Port, n.cfg.Settings.Upstreams, n.cfg.Settings.ResolvConf = 53, 53, []string{"127.0.0.2"}, "/dev/null"
	w := n.tables.DB.WriteTxn(n.tables.Services, n.tables.LocalPods)
	for _, row := range []*tables.Service{
		{Name: tables.Name{Namespace: "default", Name: "both"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.40"), netip.MustParseAddr("fd00:10:96::40")}},
		{Name: tables.Name{Namespace: "other", Name: "api"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.41")}},
	} {
		if _, _, err := n.tables.Services.Insert(w, row); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := n.tables.LocalPods.Insert(w, &tables.LocalPod{ID: "pod", Namespace: "default", Name: "pod", IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}); err != nil {
		t.Fatal(err)
	}
	w.Commit()
	n.keep(n.cfg)
	n.answers("both", "10.96.0.40")

	const processes = 4
	for _, libc := range []string{"glibc", "musl"} {
		var wg sync.WaitGroup
		start := time.Now()
		names := []string{"web", "both.default", "api.other", "api.other.svc.cluster.local", "www.example.com"}
		results := make([]dnstest.Result, processes)
		for i := range processes {
			wg.Go(func() {
				cmd := exec.Command(filepath.Join(dir, libc), append([]string{strconv.Itoa(lookups / processes)}, names...)...)
				out, err := cmd.Output()
				if err != nil {
					t.Errorf("%s: %v", libc, err)
					return
				}
				if results[i], err = dnstest.ParseResult(string(out)); err != nil {
					t.Errorf("%s: %v", libc, err)
				}
			})
		}
		wg.Wait()
		var sum dnstest.Result
		for _, r := range results {
			sum.Lookups, sum.Failed, sum.Slow = sum.Lookups+r.Lookups, sum.Failed+r.Failed, sum.Slow+r.Slow
			if r.Longest > sum.Longest {
				sum.Longest, sum.Which = r.Longest, r.Which
			}
		}
		t.Logf("%s: %d look-ups in %s, %d failed, %d waited for a repetition, the longest %s (its process's look-up %d, %s)", libc, sum.Lookups, time.Since(start).Round(time.Millisecond), sum.Failed, sum.Slow,
			sum.Longest, sum.Which, names[sum.Which%int64(len(names))])
		if sum.Lookups != int64(lookups/processes*processes) || sum.Failed > 0 || sum.Slow > 0 {
			t.Errorf("%s: look-ups failed or waited for a repetition", libc)
		}
	}
	pairs(t, lookups)
}

// pairs asks for A and AAAA at once from one port, look-up after look-up from the same one.
func pairs(t *testing.T, lookups int) {
	conn, err := net.Dial("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var longest time.Duration
	start := time.Now()
	buf := make([]byte, 1232)
	for i := range lookups {
		since := time.Now()
		_ = conn.SetReadDeadline(since.Add(5 * time.Second)) // a UDP socket has deadlines
		want := map[uint16]uint16{}                          // record type by id
		for k, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
			m := new(mdns.Msg).SetQuestion("both.default.svc.cluster.local.", qtype)
			m.Id = uint16(2*i + k)
			p, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			want[m.Id] = qtype
			if _, err := conn.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		for len(want) > 0 {
			size, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("pair %d: %v", i, err)
			}
			var m mdns.Msg
			if err := m.Unpack(buf[:size]); err != nil || len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != want[m.Id] {
				t.Fatalf("pair %d: %v %v", i, &m, err)
			}
			delete(want, m.Id)
		}
		longest = max(longest, time.Since(since))
	}
	t.Logf("pairs of A and AAAA from one port: %d look-ups in %s, the longest %s", lookups, time.Since(start).Round(time.Millisecond), longest)
}
