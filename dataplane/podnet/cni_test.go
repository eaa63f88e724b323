// SPDX-License-Identifier: Apache-2.0

// The plugin's tests by libcni stand in one file, though it is long: they share one node under test and what is looked for as residue.

package podnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types020 "github.com/containernetworking/cni/pkg/types/020"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/fairlead/fairlead/cni/wire"
	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// single makes one started node without any other.
func single(t testing.TB, change ...func(*agentConfig)) *node {
	t.Helper()
	ns := nettest.NewNS(t, "node")
	world := nettest.NewNS(t, "world")
	nettest.Connect(t, ns, "up0", []string{"192.0.2.10/24", "2001:db8::10/64"}, world, "n0", []string{"192.0.2.1/24", "2001:db8::1/64"}, 1500)
	cfg := agentConfig{Node: "node0", Quarantine: -1, Sweep: time.Hour, Nodes: []*tables.Node{{Name: "node0",
		InternalIPs: []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
		PodCIDRs:    []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10:244::/64")}}}}
	for _, f := range change {
		f(&cfg)
	}
	n := newNode(t, ns, cfg)
	n.start()
	return n
}

// residue lists everything that a pod leaves on a node when it is not removed.
func (n *node) residue() []string {
	n.t.Helper()
	var out []string
	h := n.ns.Netlink(n.t)
	links, err := h.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // devices came or went meanwhile
		links, err = h.LinkList()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	for _, l := range links {
		if name := l.Attrs().Name; (l.Type() == "veth" || l.Type() == "netkit") && name != "up0" {
			out = append(out, "interface "+name)
		}
	}
	pins, _ := filepath.Glob(filepath.Join(n.cfg.Dir, "bpf", "links", "pod-*"))
	for _, p := range pins {
		out = append(out, "link "+filepath.Base(p))
	}
	for name, size := range map[string]int{"endpoints": 24, "bandwidths": 40} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(loader.MapDir(filepath.Join(n.cfg.Dir, "bpf")), name), nil)
		if err != nil {
			n.t.Fatal(err)
		}
		key, value := make([]byte, m.KeySize()), make([]byte, size)
		for it := m.Iterate(); it.Next(&key, &value); {
			out = append(out, fmt.Sprintf("%s %x", name, key))
		}
		m.Close()
	}
	files, _ := os.ReadDir(filepath.Join(n.cfg.Dir, "data", "endpoints"))
	for _, f := range files {
		out = append(out, "file "+f.Name())
	}
	queued, _ := filepath.Glob(filepath.Join(n.cfg.Dir, "data", "cni-deletions", "*.json"))
	out = append(out, queued...)
	// Addresses: what the log gives and does not take back.
	log, err := os.ReadFile(filepath.Join(n.cfg.Dir, "data", "addresses.log"))
	if err != nil {
		n.t.Fatal(err)
	}
	owners := map[string]bool{}
	for _, line := range bytes.Split(log, []byte("\n")) {
		var r struct{ Op, Owner string }
		if json.Unmarshal(line, &r) == nil {
			switch r.Op {
			case "take":
				owners[r.Owner] = true
			case "free":
				delete(owners, r.Owner)
			}
		}
	}
	for o := range owners {
		out = append(out, "address of "+o)
	}
	slices.Sort(out)
	return out
}

func (n *node) clean(what string) {
	n.t.Helper()
	if left := n.residue(); len(left) > 0 {
		n.t.Errorf("%s left behind:\n%s", what, strings.Join(left, "\n"))
	}
}

func wantCode(t testing.TB, what string, err error, code uint) {
	t.Helper()
	var ce *types.Error
	if !errors.As(err, &ce) || ce.Code != code {
		t.Errorf("%s: %v, want error code %d", what, err, code)
	}
}

func TestEveryVersionAndVerb(t *testing.T) {
	n := single(t)
	for _, v := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(v, func(t *testing.T) {
			ctx := t.Context()
			ns := nettest.NewNS(t, "pod")
			rt := n.runtimeConf("c-"+v, ns)
			raw, err := n.cni.AddNetworkList(ctx, n.list(v), rt)
			if err != nil {
				t.Fatal("ADD:", err)
			}
			if v == "0.1.0" || v == "0.2.0" {
				r, ok := raw.(*types020.Result)
				if !ok || r.CNIVersion != v || r.IP4 == nil || r.IP6 == nil {
					t.Fatalf("result %T %+v", raw, raw)
				}
			} else if raw.Version() != v {
				t.Fatalf("result of version %s for configuration of %s", raw.Version(), v)
			}
			r, err := types100.NewResultFromResult(raw)
			if err != nil || len(r.IPs) != 2 {
				t.Fatalf("result %+v %v", r, err)
			}
			err = n.cni.CheckNetworkList(ctx, n.list(v), rt)
			if v < "0.4.0" {
				if err == nil {
					t.Error("CHECK in a version that has none")
				}
			} else if err != nil {
				t.Error("CHECK:", err)
			}
			err = n.cni.GetStatusNetworkList(ctx, n.list(v))
			if err != nil {
				t.Error("STATUS:", err)
			}
			for i := range 2 {
				if err := n.cni.DelNetworkList(ctx, n.list(v), rt); err != nil {
					t.Errorf("DEL %d: %v", i+1, err)
				}
			}
			n.clean("DEL")
		})
	}
	info, err := n.cni.GetVersionInfo(t.Context(), "fairlead-cni")
	if err != nil || !slices.Contains(info.SupportedVersions(), "0.1.0") || !slices.Contains(info.SupportedVersions(), "1.1.0") {
		t.Errorf("VERSION: %v %v", info, err)
	}
}

func TestDelWithoutNetns(t *testing.T) {
	n := single(t)
	gone := n.pod("namespace-gone")
	gone.ns.Delete()
	if err := n.del(gone.rt); err != nil {
		t.Error("DEL with the namespace gone:", err)
	}
	kept := n.pod("no-path")
	rt := *kept.rt
	rt.NetNS = ""
	if err := n.del(&rt); err != nil {
		t.Error("DEL without CNI_NETNS:", err)
	}
	if err := n.del(n.runtimeConf("never-added", nil)); err != nil {
		t.Error("DEL of what never was:", err)
	}
	n.clean("DEL without namespace")
}

func TestAddTwice(t *testing.T) {
	n := single(t)
	p := n.pod("twice")
	r, err := n.add(p.rt, "1.1.0") // a runtime that crashed after the first ADD and starts over
	if err != nil {
		t.Fatal(err)
	}
	if len(r.IPs) != 2 {
		t.Errorf("result %+v", r)
	}
	if err := n.del(p.rt); err != nil {
		t.Fatal(err)
	}
	n.clean("two ADDs and a DEL")
}

func TestCheckSeesDamage(t *testing.T) {
	n := single(t)
	check := func(p *pod) error { return n.cni.CheckNetworkList(t.Context(), n.list("1.1.0"), p.rt) }
	for name, damage := range map[string]func(*pod){
		"address removed in the container": func(p *pod) {
			h := p.ns.Netlink(t)
			l, _ := h.LinkByName("eth0")
			addrs, _ := h.AddrList(l, netlink.FAMILY_V4)
			h.AddrDel(l, &addrs[0])
		},
		"interface down": func(p *pod) {
			h := p.ns.Netlink(t)
			l, _ := h.LinkByName("eth0")
			h.LinkSetDown(l)
		},
		"interface deleted": func(p *pod) {
			h := p.ns.Netlink(t)
			l, _ := h.LinkByName("eth0")
			h.LinkDel(l)
		},
		"program detached": func(p *pod) {
			n.eventually("the program is on a link", func() error {
				pins, _ := filepath.Glob(filepath.Join(n.cfg.Dir, "bpf", "links", "pod-*-in"))
				if len(pins) != 1 {
					return fmt.Errorf("%d links", len(pins))
				}
				return os.Remove(pins[0])
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := n.pod("check-" + strings.ReplaceAll(name, " ", "-"))
			if err := check(p); err != nil {
				t.Fatal("CHECK of a sound pod:", err)
			}
			damage(p)
			wantCode(t, "CHECK", check(p), wire.ErrCheckFailed)
			if err := n.del(p.rt); err != nil {
				t.Error(err)
			}
		})
	}
	p := n.pod("unknown")
	prev := n.list("1.1.0")
	// libcni takes the result from its cache, so only the agent forgets.
	wantCode(t, "CHECK of an unknown container", func() error {
		cached, _ := n.cni.GetNetworkListCachedResult(prev, p.rt)
		if err := n.del(p.rt); err != nil {
			t.Fatal(err)
		}
		conf, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "fairlead", "type": "fairlead-cni", "socket": filepath.Join(n.cfg.Dir, "run", "cni.sock"), "prevResult": cached})
		if err != nil {
			t.Fatal(err)
		}
		return n.exec("CHECK", p.rt, conf)
	}(), types.ErrUnknownContainer)
}

// exec runs the plugin as a runtime does, with any bytes on stdin.
func (n *node) exec(command string, rt *libcni.RuntimeConf, stdin []byte) error {
	cmd := exec.Command(filepath.Join(pluginDir, "fairlead-cni"))
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + rt.ContainerID, "CNI_NETNS=" + rt.NetNS, "CNI_IFNAME=" + rt.IfName, "CNI_PATH=" + pluginDir}
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err == nil {
		return nil
	}
	ce := new(types.Error)
	if jerr := json.Unmarshal(out, ce); jerr != nil {
		return fmt.Errorf("plugin failed without saying why: %q: %w", out, err)
	}
	return ce
}

func TestErrorCodes(t *testing.T) {
	n := single(t)
	ns := nettest.NewNS(t, "pod")
	rt := n.runtimeConf("codes", ns)
	conf := func(extra string) []byte {
		return fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"fairlead","type":"fairlead-cni","socket":%q%s}`, filepath.Join(n.cfg.Dir, "run", "cni.sock"), extra)
	}
	with := func(f func(*libcni.RuntimeConf)) *libcni.RuntimeConf { c := *rt; f(&c); return &c }
	host := with(func(c *libcni.RuntimeConf) { c.NetNS = n.ns.Path() })
	for name, c := range map[string]struct {
		rt    *libcni.RuntimeConf
		stdin []byte
		code  uint
	}{
		"no JSON":                   {rt, []byte("\x00\xff{{{"), types.ErrDecodingFailure},
		"empty stdin":               {rt, nil, types.ErrDecodingFailure},
		"JSON of another kind":      {rt, []byte(`[1,2]`), types.ErrDecodingFailure},
		"no name":                   {rt, []byte(`{"cniVersion":"1.1.0","type":"fairlead-cni"}`), types.ErrInvalidNetworkConfig},
		"future version":            {rt, []byte(`{"cniVersion":"9.0.0","name":"fairlead"}`), types.ErrIncompatibleCNIVersion},
		"wrong type of a field":     {rt, conf(`,"runtimeConfig":{"ips":7}`), types.ErrDecodingFailure},
		"container ID with a slash": {with(func(c *libcni.RuntimeConf) { c.ContainerID = "a/b" }), conf(""), types.ErrInvalidEnvironmentVariables},
		"interface name too long":   {with(func(c *libcni.RuntimeConf) { c.IfName = "abcdefghijklmnopq" }), conf(""), types.ErrInvalidEnvironmentVariables},
		"no container ID":           {with(func(c *libcni.RuntimeConf) { c.ContainerID = "" }), conf(""), types.ErrInvalidEnvironmentVariables},
		"no such namespace":         {with(func(c *libcni.RuntimeConf) { c.NetNS = "/nowhere" }), conf(""), types.ErrInvalidNetNS},
		"a file for a namespace":    {with(func(c *libcni.RuntimeConf) { c.NetNS = "/etc/passwd" }), conf(""), types.ErrInvalidNetNS},
		"another kind of namespace": {with(func(c *libcni.RuntimeConf) { c.NetNS = "/proc/self/ns/mnt" }), conf(""), types.ErrInvalidNetNS},
		"the node's own namespace":  {host, conf(""), types.ErrInvalidNetNS},
		"no address":                {rt, conf(`,"runtimeConfig":{"ips":["10.244.0"]}`), types.ErrInvalidNetworkConfig},
		"a foreign address":         {rt, conf(`,"runtimeConfig":{"ips":["10.9.9.9"]}`), types.ErrInvalidNetworkConfig},
		"the node's address":        {rt, conf(`,"runtimeConfig":{"ips":["10.244.0.1/24"]}`), types.ErrInvalidNetworkConfig},
		"a multicast MAC":           {rt, conf(`,"runtimeConfig":{"mac":"01:00:5e:00:00:01"}`), types.ErrInvalidNetworkConfig},
		"a port out of range":       {rt, conf(`,"runtimeConfig":{"portMappings":[{"hostPort":70000,"containerPort":80,"protocol":"tcp"}]}`), types.ErrInvalidNetworkConfig},
		"an unknown protocol":       {rt, conf(`,"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80,"protocol":"icmp"}]}`), types.ErrInvalidNetworkConfig},
		"prevResult of no version":  {rt, conf(`,"prevResult":{"cniVersion":"7.7.7"}`), types.ErrInvalidNetworkConfig},
		"prevResult without IPs":    {rt, conf(`,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"x"}]}`), types.ErrInvalidNetworkConfig},
		"prevResult of 2 MiB":       {rt, conf(`,"prevResult":{"cniVersion":"1.1.0","dns":{"domain":"` + strings.Repeat("x", 2<<20) + `"}}`), types.ErrInvalidNetworkConfig},
		"prevResult, bad interface": {rt, conf(`,"prevResult":{"cniVersion":"1.1.0","interfaces":[null],"ips":[{"address":"10.1.1.1/24","interface":99}]}`), types.ErrInvalidNetworkConfig},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, "ADD", n.exec("ADD", c.rt, c.stdin), c.code) })
	}
	n.clean("refused ADDs")
	wantCode(t, "CHECK without prevResult", n.exec("CHECK", rt, conf("")), types.ErrInvalidNetworkConfig)
	wantCode(t, "unknown verb", n.exec("PURGE", rt, conf("")), types.ErrInvalidEnvironmentVariables)
}

func TestCapabilities(t *testing.T) {
	n := single(t)
	ns := nettest.NewNS(t, "pod")
	rt := n.runtimeConf("caps", ns)
	rt.CapabilityArgs = map[string]any{
		"ips": []string{"10.244.0.99/24", "fd00:10:244::99/64"}, "mac": "02:11:22:33:44:55",
		"bandwidth":    map[string]int{"ingressRate": 8000000, "ingressBurst": 8000000, "egressRate": 16000000, "egressBurst": 1},
		"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, {"hostPort": 0, "containerPort": 81, "protocol": "tcp"}, {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.10"}},
		"dns":          map[string]any{"servers": []string{"10.96.0.10"}, "searches": []string{"a.svc"}, "options": []string{"ndots:5"}},
	}
	r, err := n.add(rt, "1.1.0")
	if err != nil {
		t.Fatal(err)
	}
	if got := r.IPs[0].Address.String(); got != "10.244.0.99/32" {
		t.Error("address", got)
	}
	if got := r.IPs[1].Address.String(); got != "fd00:10:244::99/128" {
		t.Error("address", got)
	}
	l, err := ns.Netlink(t).LinkByName("eth0")
	if err != nil || l.Attrs().HardwareAddr.String() != "02:11:22:33:44:55" || r.Interfaces[1].Mac != "02:11:22:33:44:55" {
		t.Error("MAC", l.Attrs().HardwareAddr, r.Interfaces[1].Mac, err)
	}
	if len(r.DNS.Nameservers) != 1 || r.DNS.Search[0] != "a.svc" || r.DNS.Options[0] != "ndots:5" {
		t.Errorf("DNS %+v", r.DNS)
	}
	files, _ := filepath.Glob(filepath.Join(n.cfg.Dir, "data", "endpoints", "*.json"))
	var row tables.LocalPod
	body, _ := os.ReadFile(files[0])
	if err := json.Unmarshal(body, &row); err != nil {
		t.Fatal(err)
	}
	if len(row.HostPorts) != 2 || row.HostPorts[0].HostPort != 8080 || row.HostPorts[1].Protocol != tables.UDP || row.HostPorts[1].HostIP != netip.MustParseAddr("192.0.2.10") {
		t.Errorf("host ports %+v", row.HostPorts)
	}
	if row.Bandwidth != (tables.Bandwidth{InRate: 1000000, InBurst: 1000000, OutRate: 2000000}) {
		t.Errorf("bandwidth %+v", row.Bandwidth)
	}
	if row.Namespace != "default" || row.Name != "caps" {
		t.Errorf("pod %s/%s", row.Namespace, row.Name)
	}
	if err := n.del(rt); err != nil {
		t.Fatal(err)
	}
	n.clean("DEL with every capability")
}

func TestAgentDown(t *testing.T) {
	n := single(t)
	p, q, gone := n.pod("down-1"), n.pod("down-2"), n.pod("down-3")
	n.kill()
	wantCode(t, "ADD", n.exec("ADD", n.runtimeConf("down-4", nettest.NewNS(t, "pod")), n.plain()), types.ErrTryAgainLater)
	wantCode(t, "STATUS", n.exec("STATUS", n.runtimeConf("x", nil), n.plain()), types.ErrPluginNotAvailable)
	for range 2 {
		if err := n.del(p.rt); err != nil {
			t.Fatal("DEL is queued:", err)
		}
	}
	serve(t, q.ns, q.ip[true])
	if _, err := ask(n.ns, "tcp", q.ip[true], 100); err != nil {
		t.Error("pods must stay reachable with the agent down:", err)
	}
	if err := n.del(q.rt); err != nil {
		t.Fatal(err)
	}
	gone.ns.Delete() // while nobody watches
	n.start()
	n.eventually("everything is gone", func() error {
		if left := n.residue(); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}

// plain is our plugin's configuration by itself.
func (n *node) plain() []byte {
	return fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"fairlead","type":"fairlead-cni","socket":%q,"queue":%q}`,
		filepath.Join(n.cfg.Dir, "run", "cni.sock"), filepath.Join(n.cfg.Dir, "data", "cni-deletions"))
}

// TestAgentKilledAnywhere kills the agent at ever later moments of an ADD and of a DEL. Whatever the moment, a DEL afterwards leaves nothing, and a next ADD works.
func TestAgentKilledAnywhere(t *testing.T) {
	n := single(t)
	for step := range 16 {
		delay := time.Duration(step/2) * 1500 * time.Microsecond // each moment for an ADD and a DEL
		ns := nettest.NewNS(t, "pod")
		rt := n.runtimeConf(fmt.Sprint("kill-", step), ns)
		done := make(chan error, 1)
		del := step%2 == 1
		if del {
			if _, err := n.add(rt, "1.1.0"); err != nil {
				t.Fatal(err)
			}
			go func() { done <- n.del(rt) }()
		} else {
			go func() { _, err := n.add(rt, "1.1.0"); done <- err }()
		}
		time.Sleep(time.Millisecond + delay) // the moment is what varies
		n.kill()
		err := <-done
		if del && err != nil {
			t.Errorf("DEL with the agent killed after %s: %v", delay, err)
		}
		if !del && err != nil {
			wantCode(t, "ADD with the agent killed", err, types.ErrTryAgainLater)
		}
		n.start()
		if err := n.del(rt); err != nil {
			t.Errorf("DEL after a kill at %s: %v", delay, err)
		}
		n.clean(fmt.Sprintf("agent killed %s into step %d", delay, step))
		ns.Delete()
	}
	if _, err := n.add(n.runtimeConf("after", nettest.NewNS(t, "pod")), "1.1.0"); err != nil {
		t.Error(err)
	}
}

// TestProgramsMoveToLinks: ADD attaches filters; links take over, whether the agent lives on or dies in between. The pod has its network all the while.
func TestProgramsMoveToLinks(t *testing.T) {
	n := single(t)
	h := n.ns.Netlink(t)
	settled := func() error {
		pins, _ := filepath.Glob(filepath.Join(n.cfg.Dir, "bpf", "links", "pod-*"))
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if !strings.HasPrefix(l.Attrs().Name, "fl") || l.Type() != "veth" && l.Type() != "netkit" {
				continue
			}
			qdiscs, err := h.QdiscList(l)
			if err != nil {
				return err
			}
			for _, q := range qdiscs {
				if q.Type() == "clsact" {
					return fmt.Errorf("%s has filters still", l.Attrs().Name)
				}
			}
		}
		if len(pins) != 2 {
			return fmt.Errorf("links %v", pins)
		}
		return nil
	}
	reach := func(when string, p *pod) {
		t.Helper()
		for _, is4 := range families {
			if _, err := ask(n.ns, "tcp", p.ip[is4], 5000); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	for name, crash := range map[string]bool{"agent alive": false, "agent killed right after ADD": true} {
		t.Run(name, func(t *testing.T) {
			p := n.pod("move")
			if crash {
				n.kill()
			}
			for _, is4 := range families {
				serve(t, p.ns, p.ip[is4])
			}
			reach("right after ADD", p)
			if crash {
				n.start()
			}
			n.eventually("programs are on links alone", settled)
			reach("on links", p)
			if err := n.cni.CheckNetworkList(t.Context(), n.list("1.1.0"), p.rt); err != nil {
				t.Error("CHECK:", err)
			}
			if err := n.del(p.rt); err != nil {
				t.Error(err)
			}
			n.clean("DEL")
		})
	}
}

func TestParallelAdds(t *testing.T) {
	n := single(t)
	const count = 100
	spaces := make([]*nettest.NS, count)
	for i := range spaces {
		spaces[i] = nettest.NewNS(t, "pod")
	}
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			r, err := n.add(n.runtimeConf(fmt.Sprint("par-", i), spaces[i]), "1.1.0")
			if err != nil {
				t.Errorf("ADD %d: %v", i, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, ip := range r.IPs {
				if other, dup := seen[ip.Address.String()]; dup {
					t.Errorf("%s given to %d and %d", ip.Address.String(), other, i)
				}
				seen[ip.Address.String()] = i
			}
		})
	}
	wg.Wait()
	for i := range count {
		wg.Go(func() {
			if err := n.del(n.runtimeConf(fmt.Sprint("par-", i), spaces[i])); err != nil {
				t.Errorf("DEL %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	n.clean("100 parallel ADDs and DELs")
}

func TestGC(t *testing.T) {
	n := single(t)
	a, b, c := n.pod("gc-a"), n.pod("gc-b"), n.pod("gc-c")
	err := n.cni.GCNetworkList(t.Context(), n.list("1.1.0"), &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "gc-b", IfName: "eth0"}}})
	if err != nil {
		t.Fatal(err)
	}
	left := strings.Join(n.residue(), "\n")
	for _, p := range []*pod{a, c} {
		if strings.Contains(left, p.rt.ContainerID) {
			t.Errorf("%s survived GC:\n%s", p.rt.ContainerID, left)
		}
	}
	if !strings.Contains(left, "gc-b") {
		t.Errorf("GC removed a valid attachment:\n%s", left)
	}
	serve(t, b.ns, b.ip[true])
	if _, err := ask(n.ns, "tcp", b.ip[true], 10); err != nil {
		t.Error("the kept pod:", err)
	}
}

func TestExhaustedRange(t *testing.T) {
	n := single(t, func(c *agentConfig) {
		c.Nodes[0].PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/29")}
		c.Quarantine = time.Hour
	})
	var last *pod
	for i := range 5 {
		last = n.pod(fmt.Sprint("full-", i))
	}
	rt := n.runtimeConf("full-5", nettest.NewNS(t, "pod"))
	_, err := n.add(rt, "1.1.0")
	wantCode(t, "ADD to a full node", err, wire.ErrNoAddress)
	wantCode(t, "STATUS of a full node", n.cni.GetStatusNetworkList(context.Background(), n.list("1.1.0")), types.ErrPluginNotAvailable)
	if err := n.del(last.rt); err != nil {
		t.Fatal(err)
	}
	_, err = n.add(rt, "1.1.0")
	wantCode(t, "ADD inside the quarantine", err, wire.ErrNoAddress)
}

func TestChains(t *testing.T) {
	n := single(t)
	for name, plugins := range map[string][]string{
		"tuning":                        {`{"type":"tuning","sysctl":{"net.core.somaxconn":"500"}}`},
		"portmap, bandwidth and tuning": {`{"type":"portmap","capabilities":{"portMappings":true},"snat":false}`, `{"type":"bandwidth","ingressRate":80000000,"ingressBurst":80000000,"egressRate":80000000,"egressBurst":80000000}`, `{"type":"tuning"}`},
	} {
		t.Run(name, func(t *testing.T) {
			ns := nettest.NewNS(t, "pod")
			rt := n.runtimeConf("chain", ns)
			list := n.list("1.0.0", plugins...)
			// Debian's plugins act on the namespace they run in, so libcni must run on the node.
			var err error
			n.ns.Do(func() { _, err = n.cni.AddNetworkList(t.Context(), list, rt) })
			if err != nil {
				t.Fatal("ADD:", err)
			}
			n.ns.Do(func() { err = n.cni.CheckNetworkList(t.Context(), list, rt) })
			if err != nil {
				t.Error("CHECK:", err)
			}
			n.ns.Do(func() { err = n.cni.DelNetworkList(t.Context(), list, rt) })
			if err != nil {
				t.Error("DEL:", err)
			}
			n.clean("DEL of a chain")
		})
	}
	t.Run("second in a chain, after ptp", func(t *testing.T) {
		ns := nettest.NewNS(t, "pod")
		rt := n.runtimeConf("second", ns)
		body := fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"fairlead","plugins":[{"type":"ptp","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.88.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},%s]}`, filepath.Join(n.cfg.Dir, "host-local"), n.plain())
		list, err := libcni.ConfListFromBytes(body)
		if err != nil {
			t.Fatal(err)
		}
		var raw types.Result
		n.ns.Do(func() { raw, err = n.cni.AddNetworkList(t.Context(), list, rt) })
		if err != nil {
			t.Fatal("ADD:", err)
		}
		r, _ := types100.NewResultFromResult(raw)
		ip, _ := netip.AddrFromSlice(r.IPs[0].Address.IP)
		if !netip.MustParsePrefix("10.88.0.0/24").Contains(ip.Unmap()) {
			t.Errorf("the first plugin's result must be passed on: %+v", r)
		}
		n.ns.Do(func() { err = n.cni.CheckNetworkList(t.Context(), list, rt) })
		if err != nil {
			t.Error("CHECK:", err)
		}
		own := n.pod("own")
		serve(t, ns, ip.Unmap())
		if peer, err := ask(own.ns, "tcp", ip.Unmap(), 5000); err != nil || peer != own.ip[true].String() {
			t.Errorf("from a pod of ours to a chained one: saw %s, %v", peer, err)
		}
		if err := n.del(own.rt); err != nil {
			t.Error(err)
		}
		n.ns.Do(func() { err = n.cni.DelNetworkList(t.Context(), list, rt) })
		if err != nil {
			t.Error("DEL:", err)
		}
		n.clean("DEL of a chain")
	})
}

func TestSweepFindsLeaks(t *testing.T) {
	n := single(t, func(c *agentConfig) { c.Sweep = 50 * time.Millisecond })
	gone := n.pod("leak-netns")
	gone.ns.Delete()
	// Things that a crash between two steps, or a person, left behind.
	orphan := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "fl0123456789ab"}, PeerName: "x"}
	if err := n.ns.Netlink(t).LinkAdd(orphan); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(loader.MapDir(filepath.Join(n.cfg.Dir, "bpf")), "endpoints"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	a := netip.MustParseAddr("10.244.0.200").As16()
	if err := m.Put(a[:], make([]byte, 24)); err != nil {
		t.Fatal(err)
	}
	n.eventually("the sweep removes leaks", func() error {
		if left := n.residue(); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}

func TestUninstall(t *testing.T) {
	n := single(t)
	p := n.pod("one")
	n.kill()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), agentEnv+"=uninstall")
	var out []byte
	var err error
	for range 2 { // the second finds nothing and is content
		n.ns.Do(func() { out, err = cmd.CombinedOutput() })
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		cmd = &exec.Cmd{Path: cmd.Path, Args: cmd.Args, Env: cmd.Env}
	}
	h := n.ns.Netlink(t)
	links, err := h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if name := l.Attrs().Name; name != "lo" && name != "up0" {
			t.Errorf("device %s is left", name)
		}
	}
	lo, _ := h.LinkByName("lo")
	addrs, _ := h.AddrList(lo, netlink.FAMILY_ALL)
	for _, a := range addrs {
		if !a.IP.IsLoopback() {
			t.Errorf("address %s is left", a.IP)
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, _ := h.RouteList(nil, family)
		for _, r := range routes {
			if r.Protocol == 178 || r.Protocol == 179 {
				t.Errorf("route %s is left", r)
			}
		}
	}
	if _, err := p.ns.Netlink(t).LinkByName("eth0"); err == nil {
		t.Error("the pod still has its interface")
	}
}

// TestChurn adds and deletes many pods and looks for anything that grows. FAIRLEAD_CHURN sets the number (10000 in the long run of docs/podnet.md).
func TestChurn(t *testing.T) {
	count := 100
	if s := os.Getenv("FAIRLEAD_CHURN"); s != "" {
		count, _ = strconv.Atoi(s)
	}
	n := single(t)
	measure := func() (fds int, threads string) {
		threads = n.goroutines()
		fds = 1 << 20
		for range 50 { // the least of many looks: files are open for a moment now and then
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			fds = min(fds, len(entries))
			time.Sleep(5 * time.Millisecond)
		}
		return fds, threads
	}
	const runtimes = 4 // at once, as a node's own
	// churn adds and deletes count pods and returns how long each ADD took its caller.
	churn := func(name string, count int) []time.Duration {
		var mu sync.Mutex
		var times []time.Duration
		var next atomic.Int64
		var wg sync.WaitGroup
		for range runtimes {
			ns := nettest.NewNS(t, "pod")
			wg.Go(func() {
				for i := next.Add(1); i <= int64(count); i = next.Add(1) {
					rt := n.runtimeConf(fmt.Sprint(name, i), ns)
					start := time.Now()
					if _, err := n.add(rt, "1.1.0"); err != nil {
						t.Errorf("ADD %d: %v", i, err)
						return
					}
					took := time.Since(start)
					if err := n.del(rt); err != nil {
						t.Errorf("DEL %d: %v", i, err)
						return
					}
					mu.Lock()
					times = append(times, took)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		return times
	}
	churn("warm-", 20)
	fds, routines := measure()
	start := time.Now()
	times := churn("churn-", count)
	t.Logf("%d ADDs and DELs by %d callers in %s", len(times), runtimes, time.Since(start).Round(time.Millisecond))
	if len(times) < count {
		t.FailNow()
	}
	slices.Sort(times)
	t.Logf("%d ADDs seen by the caller: p50 %s, p99 %s", count, times[count/2], times[count*99/100])
	n.clean("churn")
	if f, r := measure(); f > fds || r != routines {
		t.Errorf("agent went from %d to %d file descriptors and from %s to %s goroutines", fds, f, routines, r)
	}
}

// TestAddLatency adds pods at the pace of a busy node, not back to back: the time that a runtime waits for one pod's network.
func TestAddLatency(t *testing.T) {
	n := single(t)
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	var times []time.Duration
	for i := range 40 {
		ns := nettest.NewNS(t, "pod")
		<-tick.C
		start := time.Now()
		if _, err := n.add(n.runtimeConf(fmt.Sprint("pace-", i), ns), "1.1.0"); err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	t.Logf("ADD seen by the caller, one every 150 ms: p50 %s, p90 %s, max %s", times[20], times[36], times[39])
}

// goroutines asks the agent for its number of goroutines, once its requests are over.
func (n *node) goroutines() string {
	n.t.Helper()
	var last string
	same := 0
	for range 200 {
		body, err := os.ReadFile(filepath.Join(n.cfg.Dir, "goroutines"))
		if err == nil && len(body) > 0 && string(body) == last {
			if same++; same > 10 {
				return last
			}
		} else {
			same, last = 0, string(body)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return last
}
