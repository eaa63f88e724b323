// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

var bootTime = sync.OnceValue(func() time.Time {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(info.Uptime) * time.Second)
})

// nodeCPU is the CPU time used since the machine's start, and the rate since the last call at least a second ago.
func (c *Collector) nodeCPU() (usage, cores uint64) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	const tick = uint64(time.Second) / 100 // USER_HZ
	for i, field := range fields {
		if i == 0 || i == 4 || i == 5 || i > 8 { // idle and iowait are not use; guest time is in user time already
			continue
		}
		n, err := strconv.ParseUint(field, 10, 64)
		if err == nil {
			usage += n * tick
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if passed := now.Sub(c.last.at); passed >= time.Second {
		if !c.last.at.IsZero() && usage >= c.last.usage {
			c.last.cores = uint64(float64(usage-c.last.usage) / passed.Seconds())
		}
		c.last.at, c.last.usage = now, usage
	}
	return usage, c.last.cores
}

// nodeMemory is total, available, and anonymous memory in bytes.
func nodeMemory() (total, available, rss uint64) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, 0
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = n * 1024
		case "MemAvailable:":
			available = n * 1024
		case "AnonPages:":
			rss = n * 1024
		}
	}
	return total, available, rss
}

// NodeMemory is the machine's total and available memory in bytes.
func NodeMemory() (total, available uint64) {
	total, available, _ = nodeMemory()
	return total, available
}

// processes is the most the machine allows and how many there are.
func processes() (maximum, running int64) {
	if data, err := os.ReadFile("/proc/sys/kernel/pid_max"); err == nil {
		maximum, _ = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		if fields := strings.Fields(string(data)); len(fields) > 3 {
			_, all, _ := strings.Cut(fields[3], "/")
			running, _ = strconv.ParseInt(all, 10, 64)
		}
	}
	return maximum, running
}

// Processes is the most the machine allows and how many there are.
func Processes() (maximum, running int64) { return processes() }

// Filesystem is how full the filesystem of a path is; nil when it cannot be told.
func Filesystem(path string) *statsapi.FsStats {
	var stat unix.Statfs_t
	if path == "" || unix.Statfs(path, &stat) != nil {
		return nil
	}
	size := uint64(stat.Bsize)
	available, capacity, usedBytes := stat.Bavail*size, stat.Blocks*size, (stat.Blocks-stat.Bfree)*size
	inodes, free := stat.Files, stat.Ffree
	usedInodes := inodes - free
	return &statsapi.FsStats{Time: metav1.Now(), AvailableBytes: &available, CapacityBytes: &capacity, UsedBytes: &usedBytes, Inodes: &inodes, InodesFree: &free, InodesUsed: &usedInodes}
}

// nodeSwap is the machine's swap; nil without any.
func nodeSwap(now metav1.Time) *statsapi.SwapStats {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil || info.Totalswap == 0 {
		return nil
	}
	available := info.Freeswap * uint64(info.Unit)
	usage := (info.Totalswap - info.Freeswap) * uint64(info.Unit)
	return &statsapi.SwapStats{Time: now, SwapAvailableBytes: &available, SwapUsageBytes: &usage}
}

// device is one line of a network namespace's /proc/net/dev.
type device struct {
	name                                    string
	rxBytes, rxPackets, rxErrors, rxDropped uint64
	txBytes, txPackets, txErrors, txDropped uint64
}

// parseDevices reads /proc/net/dev, without the loopback interface.
func parseDevices(text string) (out []device) {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || len(fields) < 12 || name == "lo" {
			continue
		}
		var n [12]uint64
		for i := range n {
			n[i], _ = strconv.ParseUint(fields[i], 10, 64)
		}
		out = append(out, device{name, n[0], n[1], n[2], n[3], n[8], n[9], n[10], n[11]})
	}
	return out
}

func devicesOf(pid int) []device {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/net/dev")
	if err != nil {
		return nil
	}
	return parseDevices(string(data))
}

func nodeNetwork(now metav1.Time) *statsapi.NetworkStats {
	out := &statsapi.NetworkStats{Time: now}
	for _, d := range devicesOf(os.Getpid()) {
		one := statsapi.InterfaceStats{Name: d.name, RxBytes: &d.rxBytes, RxErrors: &d.rxErrors, TxBytes: &d.txBytes, TxErrors: &d.txErrors}
		if len(out.Interfaces) == 0 {
			out.InterfaceStats = one
		}
		out.Interfaces = append(out.Interfaces, one)
	}
	return out
}
