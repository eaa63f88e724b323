// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/dns/dnstest"
	"github.com/fairlead/fairlead/dataplane/dns/keeper"
	"github.com/fairlead/fairlead/dataplane/dns/link"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// running is a server process.
type running struct {
	name    string
	address string
	pid     int
	stop    func()
	tables  *tables.Tables // of the agent that feeds it
}

// program returns the executable of package pkg: given, or built into dir.
func program(ctx context.Context, given, dir, pkg string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	out := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	cmd.Stderr = os.Stderr
	return out, cmd.Run()
}

// startFairlead does what a node's agent does: it keeps a server process and feeds it, from tables of the objects.
func startFairlead(ctx context.Context, program, dir, upstream string, o *dnstest.Objects) (*running, error) {
	t, err := o.Tables()
	if err != nil {
		return nil, err
	}
	w := t.DB.WriteTxn(t.LocalPods)
	if _, _, err := t.LocalPods.Insert(w, &tables.LocalPod{ID: "client", Namespace: "ns-0", Name: "client", IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}); err != nil {
		return nil, err
	}
	w.Commit()
	port, metrics, err := freePorts()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	cfg := keeper.Config{
		Tables: t, RunDir: dir, LogFile: filepath.Join(dir, "dns.log"), Executable: program,
		Settings: link.Settings{Domain: "cluster.local", Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port: port, Upstreams: []string{upstream}, ResolvConf: "/dev/null",
			Metrics: metrics},
	}
	go func() { done <- keeper.Run(ctx, cfg) }()
	r := &running{name: "fairlead", address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), tables: t}
	r.stop = func() {
		cancel()
		<-done
		if r.pid != 0 {
			_ = unix.Kill(r.pid, unix.SIGTERM) // the keeper leaves it running
		}
	}
	if err := answers(ctx, r.address, len(o.Services)); err != nil {
		r.stop()
		return nil, err
	}
	r.pid, err = pidOf(cfg.LogFile)
	return r, err
}

// pidOf finds the process whose standard error is the file.
func pidOf(log string) (int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/fd/2")
	if err != nil {
		return 0, err
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == log {
			return strconv.Atoi(strings.Split(l, "/")[2])
		}
	}
	return 0, fmt.Errorf("no process writes to %s", log)
}

// startCoreDNS starts CoreDNS with the Corefile that Kubernetes installers write, without health.
func startCoreDNS(ctx context.Context, program, api, upstream string, services int) (*running, error) {
	port, metrics, err := freePorts()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Stderr = os.Stderr
	cmd.Stdin = bytes.NewReader(fmt.Appendf(nil, `.:%d {
    bind 127.0.0.1
    errors
    prometheus %s
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        endpoint %s
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    forward . %s
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
    loadbalance
}
`, port, metrics, api, upstream))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &running{name: "coredns", address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), pid: cmd.Process.Pid}
	r.stop = func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		_ = cmd.Wait()
	}
	if err := answers(ctx, r.address, services); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

// answers waits until the server knows the last service.
func answers(ctx context.Context, address string, services int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c := &dns.Client{Timeout: time.Second}
	for {
		r, _, err := c.ExchangeContext(ctx, new(dns.Msg).SetQuestion(serviceName(services-1), dns.TypeA), address)
		if err == nil && len(r.Answer) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %v", address, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// pin lets every thread of a process run on one core.
func pin(pid, core int) error {
	var set unix.CPUSet
	set.Set(core)
	for range 3 { // threads that are made meanwhile
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
				return fmt.Errorf("pin process %d to core %d: %w", pid, core, err)
			}
		}
	}
	return nil
}

// cpuTime is what a process has used of the cores, which other work on the machine does not change as much as it does rates.
func cpuTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(f[11])   // fields 14 and 15 of proc(5), in ticks of 10 ms
	system, _ := strconv.Atoi(f[12]) // the kernel writes numbers
	return time.Duration(user+system) * 10 * time.Millisecond
}

func resident(pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kb, _ := strconv.Atoi(f[1]) // the kernel writes a number
			return float64(kb) / 1024
		}
	}
	return 0
}

// freePorts returns a port for names and an address for metrics.
func freePorts() (port int, metrics string, err error) {
	var at [2]*net.TCPAddr
	for i := range at {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, "", err
		}
		defer l.Close()
		at[i] = l.Addr().(*net.TCPAddr)
	}
	return at[0].Port, at[1].String(), nil
}
