// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
	"github.com/fairlead/fairlead/hack/bench/report"
)

// The request generator makes blocking system calls on one thread, so that what it measures is the network and not an event loop. Client and server share one CPU: then a request costs what
// the path costs. On two CPUs each would wake the other out of idle twice per request, which takes a virtual machine longer than everything else and differs from run to run.
// Streams have a CPU at each end.

const requestCPU = 0

// pin binds the calling process, before it has made threads of its own, and what it starts to one CPU.
func pin() error {
	var set unix.CPUSet
	set.Set(requestCPU)
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err == nil {
			err = unix.SchedSetaffinity(tid, &set)
		}
		if err != nil {
			return fmt.Errorf("bind to CPU %d: %w", requestCPU, err)
		}
	}
	return nil
}

const loadPort = 9100

// metric is one thing to measure on a path.
type metric struct {
	name    string
	kind    string
	unit    string
	measure func(p path, each time.Duration) (float64, error)
}

var metrics = []metric{
	{"TCP_RR", "rr", "1/s", ask("rr")},
	{"TCP_CRR", "rr", "1/s", ask("crr")},
	{"UDP_RR", "rr", "1/s", ask("udp")},
	{"TCP stream", "stream", "Gbit/s", iperf(1)},
	{"TCP 4 streams", "stream", "Gbit/s", iperf(4)},
	{"CNI ADD", "cni", "ms", addTime},
}

// scratch is where a measurement registers what it makes.
var scratch *scope

// addTime connects pods one by one, with pauses as a kubelet makes them, and returns the median time that the caller waited, in ms.
func addTime(p path, _ time.Duration) (float64, error) {
	var times []float64
	ns := nettest.NewNS(scratch, "add")
	for i := range 9 {
		id := fmt.Sprintf("add-%d", i)
		_, took, err := p.host.add(ns, id)
		if err != nil {
			return 0, err
		}
		times = append(times, float64(took.Microseconds())/1000)
		if err := p.host.del(ns, id); err != nil {
			return 0, err
		}
		time.Sleep(250 * time.Millisecond)
	}
	ns.Delete()
	return report.Median(times), nil
}

func ask(kind string) func(path, time.Duration) (float64, error) {
	return func(p path, each time.Duration) (float64, error) {
		cmd := exec.Command("/proc/self/exe", "ask", kind, p.addr.String(), each.String())
		var out []byte
		var err error
		p.from.Do(func() { out, err = cmd.CombinedOutput() })
		if err != nil {
			return 0, fmt.Errorf("%w: %s", err, out)
		}
		return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	}
}

func iperf(streams int) func(path, time.Duration) (float64, error) {
	return func(p path, each time.Duration) (float64, error) {
		cmd := exec.Command("iperf3", "-c", p.addr.String(), "-P", strconv.Itoa(streams), "-A", "0,1", "-t", fmt.Sprintf("%.0f", max(1, each.Seconds())), "-J")
		var out []byte
		var err error
		p.from.Do(func() { out, err = cmd.Output() })
		var r struct {
			Error string
			End   struct {
				Received struct {
					Rate float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			}
		}
		if jerr := json.Unmarshal(out, &r); jerr != nil || err != nil || r.Error != "" {
			return 0, fmt.Errorf("iperf3: %v %v %s", err, jerr, r.Error)
		}
		return r.End.Received.Rate / 1e9, nil
	}
}

func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16()}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// serveLoad answers every byte with a byte, by TCP and UDP, until it is killed.
func serveLoad(args []string) error {
	if err := pin(); err != nil {
		return err
	}
	addr, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	l, err := unix.Socket(family(addr), unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(l, sockaddr(addr, loadPort)); err != nil {
		return err
	}
	if err := unix.Listen(l, 128); err != nil {
		return err
	}
	u, err := unix.Socket(family(addr), unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(u, sockaddr(addr, loadPort)); err != nil {
		return err
	}
	go func() {
		runtime.LockOSThread()
		var b [64]byte
		for {
			n, from, err := unix.Recvfrom(u, b[:], 0)
			if err == nil {
				unix.Sendto(u, b[:n], 0, from)
			}
		}
	}()
	runtime.LockOSThread()
	for {
		c, _, err := unix.Accept(l)
		if err != nil {
			continue
		}
		unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		var b [1]byte
		for { // one client at a time
			n, err := unix.Read(c, b[:])
			if err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 {
				break
			}
			if _, err := unix.Write(c, b[:]); err != nil {
				break
			}
		}
		unix.Close(c)
	}
}

// askLoad prints the rate of one kind of transaction: "rr" on one connection, "crr" with a connection each, "udp".
func askLoad(args []string) error {
	if err := pin(); err != nil {
		return err
	}
	kind := args[0]
	addr, err := netip.ParseAddr(args[1])
	if err != nil {
		return err
	}
	each, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	to := sockaddr(addr, loadPort)
	open := func() (int, error) {
		t := unix.SOCK_STREAM
		if kind == "udp" {
			t = unix.SOCK_DGRAM
		}
		fd, err := unix.Socket(family(addr), t, 0)
		if err != nil {
			return fd, err
		}
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
		if kind != "udp" {
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
			// Ended by a reset: no port waits in TIME_WAIT, so that runs do not slow each other down.
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		if err := unix.Connect(fd, to); err != nil && err != unix.EINTR { // interrupted, it goes on; the write waits for it
			return fd, err
		}
		return fd, nil
	}
	var b [1]byte
	turn := func(fd int) error {
		if _, err := unix.Write(fd, b[:]); err != nil {
			return err
		}
		for {
			n, err := unix.Read(fd, b[:])
			if err == unix.EINTR { // the Go runtime's signals, beside a receive timeout
				continue
			}
			if err != nil || n != 1 {
				return fmt.Errorf("read: %d bytes: %w", n, err)
			}
			return nil
		}
	}
	fd, err := open()
	if err != nil {
		return err
	}
	count := 0
	start := time.Now()
	for {
		if count%32 == 0 && time.Since(start) >= each {
			break
		}
		if kind == "crr" && count > 0 {
			unix.Close(fd)
			if fd, err = open(); err != nil {
				return err
			}
		}
		if err := turn(fd); err != nil {
			return err
		}
		count++
	}
	_, err = fmt.Fprintf(os.Stdout, "%f\n", float64(count)/time.Since(start).Seconds())
	return err
}
