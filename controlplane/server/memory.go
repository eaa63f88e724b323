// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How much garbage may lie around decides how much of the CPU goes into collecting it. A fixed share of what is alive (GOGC) is wrong twice here: an
// idle control plane would keep memory that others need, and a busy one with a small cluster would collect ten times a second. So the share follows
// the work: at most one collection in gcInterval, more rarely with much alive, between idleGC percent of that and the ceiling. GOGC in the environment is respected.
const (
	startGC    = 400             // the start makes four times the garbage of what stays (OpenAPI documents, default objects)
	idleGC     = 25              // percent of what is alive: idle, that is a collection in half a minute
	gcInterval = 4 * time.Second // between two collections, when memory allows
	gcPerByte  = 16e-9           // seconds between two collections per byte alive, if that is more: a collection takes 1 to 3 s of CPU for each GB
	gcSpare    = 4 << 30         // bytes of garbage that are never too many, on a machine of gcShare times that
	gcShare    = 8               // at most this part of the memory there is for this process is left to garbage, unless more than that is alive
	gcLook     = time.Second     // between two looks at the rate of allocation
	quietLooks = 10              // that show little work before its memory is given back
	// settleAfter is when the last work of the start (OpenAPI and discovery documents) is over.
	settleAfter = 5 * time.Second
)

// collector adapts garbage collection to the rate of allocation.
type collector struct {
	ceiling   float64 // bytes of garbage
	percent   int     // GOGC in force
	allocated float64 // bytes since the start of the process, at the last look
	at        time.Time
	quiet     int // looks since there was work
}

// easeStart defers garbage collection. The returned function ends that a while later, and then adapts collection to the work until ctx ends; it calls idle when there
// has been little work for a while.
func easeStart(idle func(ctx context.Context)) (follow func(ctx context.Context)) {
	if os.Getenv("GOGC") != "" {
		return func(context.Context) {}
	}
	c := &collector{ceiling: gcCeiling(), quiet: quietLooks - 1}
	c.set(startGC)
	return func(ctx context.Context) {
		defer c.set(idleGC)
		c.at = time.Now()
		c.allocated, _ = heap()
		look := time.NewTimer(settleAfter)
		defer look.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-look.C:
				allocated, live := heap()
				percent, relax := c.next(now, allocated, live)
				c.set(percent)
				if relax && idle != nil {
					idle(ctx)
				}
				look.Reset(gcLook)
			}
		}
	}
}

// next returns the GOGC for the bytes allocated since the last call, and whether work ended a while ago, so that its memory should be given back.
func (c *collector) next(now time.Time, allocated, live float64) (percent int, relax bool) {
	rate := (allocated - c.allocated) / now.Sub(c.at).Seconds()
	c.at, c.allocated = now, allocated
	garbage := min(rate*max(gcInterval.Seconds(), gcPerByte*live), max(c.ceiling, live))
	if percent = int(100 * garbage / max(live, 1)); percent > idleGC {
		c.quiet = 0
		return percent, false
	}
	c.quiet++
	if c.quiet < quietLooks {
		return c.percent, false // a pause between two bursts
	}
	return idleGC, c.quiet == quietLooks
}

func (c *collector) set(percent int) {
	if percent != c.percent {
		c.percent = percent
		debug.SetGCPercent(percent)
	}
}

// heap returns the bytes allocated so far and the bytes that the last collection found alive.
func heap() (allocated, live float64) {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return float64(s[0].Value.Uint64()), float64(s[1].Value.Uint64())
}

// gcCeiling is how many bytes of garbage there is room for: on this machine, and in the control groups this process is in.
func gcCeiling() float64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	room := min(float64(info.Totalram)*float64(info.Unit), cgroupMemory("/"))
	return min(gcSpare, room/gcShare)
}

// cgroupMemory is the least memory limit among this process's control groups and those above them (cgroup-v2.rst, "memory.max"; cgroup-v1/memory.rst), in bytes;
// infinite without one. root is where /proc and /sys are.
func cgroupMemory(root string) float64 {
	least := math.Inf(1)
	groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return least
	}
	for line := range strings.Lines(string(groups)) { // id:controllers:path
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		switch {
		case f[1] == "memory":
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case f[1] != "":
			continue
		}
		for dir := filepath.Clean("/" + f[2]); ; dir = filepath.Dir(dir) {
			if data, err := os.ReadFile(filepath.Join(root, mount, dir, file)); err == nil {
				if limit, err := strconv.ParseFloat(strings.TrimSpace(string(data)), 64); err == nil { // not "max"
					least = min(least, limit)
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}
