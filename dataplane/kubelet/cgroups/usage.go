// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Usage is what the processes of one cgroup have used. What the host does not count is zero.
type Usage struct {
	CPU, User, System time.Duration
	Periods           uint64 // of the CPU quota that passed, and those in which the quota was used up
	ThrottledPeriods  uint64
	Throttled         time.Duration

	Memory, MemoryMax uint64 // now and at most, bytes
	MemoryLimit       uint64 // 0: none
	WorkingSet        uint64 // Memory without inactive file pages
	RSS, Cache, Swap  uint64
	Mapped            uint64
	Faults, Major     uint64
	LimitHits         uint64
	OOMKills          uint64

	IO                 []DeviceIO
	Processes, Threads uint64

	// Pressure is nil where there is no cgroup2.
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// DeviceIO is what was read from and written to one block device.
type DeviceIO struct {
	Device                  string // major:minor
	Reads, Writes           uint64
	ReadBytes, WrittenBytes uint64
}

// Pressure is stall information: how long some, or all, tasks waited.
type Pressure struct{ Some, Full Stall }

// Stall is time lost: shares of the last 10, 60 and 300 s in percent, and the total.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// ParsePressure reads /proc/pressure/* and *.pressure. It returns nil for what is neither.
func ParsePressure(text string) *Pressure {
	var out Pressure
	known := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		stall := &out.Some
		switch fields[0] {
		case "some":
		case "full":
			stall = &out.Full
		default:
			continue
		}
		known = true
		for _, field := range fields[1:] {
			name, value, _ := strings.Cut(field, "=")
			switch name {
			case "total":
				us, err := strconv.ParseUint(value, 10, 63)
				if err == nil {
					stall.Total = time.Duration(us) * time.Microsecond
				}
			case "avg10", "avg60", "avg300":
				percent, err := strconv.ParseFloat(value, 64)
				if err != nil || !(percent >= 0 && percent <= 100) {
					continue
				}
				*map[string]*float64{"avg10": &stall.Avg10, "avg60": &stall.Avg60, "avg300": &stall.Avg300}[name] = percent
			}
		}
	}
	if !known {
		return nil
	}
	return &out
}

// NodePressure is the machine's pressure; nil for what the kernel does not tell.
func NodePressure() (cpu, memory, io *Pressure) {
	read := func(name string) *Pressure { return ParsePressure(text("/proc/pressure", name)) }
	return read("cpu"), read("memory"), read("io")
}

// Usage reads one cgroup. It returns false when there is no such cgroup.
func (l Layout) Usage(path string) (Usage, bool) {
	var u Usage
	if l.V2() {
		dir := filepath.Join(l.Unified, path)
		if _, err := os.Stat(dir); err != nil {
			return u, false
		}
		u.readV2(dir)
		return u, true
	}
	found := false
	at := func(controller string) string {
		mount := l.Controllers[controller]
		if mount == "" {
			return ""
		}
		dir := filepath.Join(mount, path)
		if _, err := os.Stat(dir); err != nil {
			return ""
		}
		found = true
		return dir
	}
	u.readV1(at("cpu"), at("cpuacct"), at("memory"), at("blkio"), at("pids"))
	if found && l.Hybrid != "" {
		u.readPressure(filepath.Join(l.Hybrid, path))
	}
	return u, found
}

func (u *Usage) readPressure(dir string) {
	u.CPUPressure = ParsePressure(text(dir, "cpu.pressure"))
	u.MemoryPressure = ParsePressure(text(dir, "memory.pressure"))
	u.IOPressure = ParsePressure(text(dir, "io.pressure"))
}

func (u *Usage) readV2(dir string) {
	cpu := keyed(text(dir, "cpu.stat"))
	u.CPU, u.User, u.System = microseconds(cpu["usage_usec"]), microseconds(cpu["user_usec"]), microseconds(cpu["system_usec"])
	u.Periods, u.ThrottledPeriods, u.Throttled = cpu["nr_periods"], cpu["nr_throttled"], microseconds(cpu["throttled_usec"])
	memory := keyed(text(dir, "memory.stat"))
	u.RSS, u.Cache, u.Mapped = memory["anon"], memory["file"], memory["file_mapped"]
	u.Faults, u.Major = memory["pgfault"], memory["pgmajfault"]
	u.Memory, u.MemoryMax, u.MemoryLimit = number(text(dir, "memory.current")), number(text(dir, "memory.peak")), number(text(dir, "memory.max"))
	u.Swap = number(text(dir, "memory.swap.current"))
	u.WorkingSet = u.Memory - min(memory["inactive_file"], u.Memory)
	events := keyed(text(dir, "memory.events"))
	u.LimitHits, u.OOMKills = events["max"], events["oom_kill"]
	for line := range strings.Lines(text(dir, "io.stat")) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		one := DeviceIO{Device: fields[0]}
		for _, field := range fields[1:] {
			name, value, _ := strings.Cut(field, "=")
			if into := map[string]*uint64{"rbytes": &one.ReadBytes, "wbytes": &one.WrittenBytes, "rios": &one.Reads, "wios": &one.Writes}[name]; into != nil {
				*into = number(value)
			}
		}
		u.IO = append(u.IO, one)
	}
	u.Threads = number(text(dir, "pids.current"))
	u.Processes = uint64(strings.Count(text(dir, "cgroup.procs"), "\n"))
	u.readPressure(dir)
}

// readV1 takes an empty directory for a controller that the host does not have.
func (u *Usage) readV1(cpu, account, memory, io, pids string) {
	const tick = time.Second / 100 // USER_HZ
	u.CPU = time.Duration(number(text(account, "cpuacct.usage")))
	times := keyed(text(account, "cpuacct.stat"))
	u.User, u.System = time.Duration(times["user"])*tick, time.Duration(times["system"])*tick
	quota := keyed(text(cpu, "cpu.stat"))
	u.Periods, u.ThrottledPeriods, u.Throttled = quota["nr_periods"], quota["nr_throttled"], time.Duration(quota["throttled_time"])
	stat := keyed(text(memory, "memory.stat"))
	u.RSS, u.Cache, u.Mapped, u.Swap = stat["total_rss"], stat["total_cache"], stat["total_mapped_file"], stat["total_swap"]
	u.Faults, u.Major = stat["total_pgfault"], stat["total_pgmajfault"]
	u.Memory, u.MemoryMax = number(text(memory, "memory.usage_in_bytes")), number(text(memory, "memory.max_usage_in_bytes"))
	if limit := number(text(memory, "memory.limit_in_bytes")); limit < 1<<62 { // v1 writes a huge number for none
		u.MemoryLimit = limit
	}
	u.WorkingSet = u.Memory - min(stat["total_inactive_file"], u.Memory)
	u.LimitHits, u.OOMKills = number(text(memory, "memory.failcnt")), keyed(text(memory, "memory.oom_control"))["oom_kill"]
	u.Threads = number(text(pids, "pids.current"))
	u.Processes = uint64(strings.Count(text(account, "cgroup.procs"), "\n"))
	devices := map[string]*DeviceIO{}
	for file, into := range map[string]func(*DeviceIO) (read, write *uint64){
		"blkio.throttle.io_serviced_recursive":      func(d *DeviceIO) (*uint64, *uint64) { return &d.Reads, &d.Writes },
		"blkio.throttle.io_service_bytes_recursive": func(d *DeviceIO) (*uint64, *uint64) { return &d.ReadBytes, &d.WrittenBytes },
	} {
		for line := range strings.Lines(text(io, file)) {
			fields := strings.Fields(line)
			if len(fields) != 3 {
				continue
			}
			one := devices[fields[0]]
			if one == nil {
				one = &DeviceIO{Device: fields[0]}
				devices[fields[0]] = one
			}
			read, write := into(one)
			switch fields[1] {
			case "Read":
				*read = number(fields[2])
			case "Write":
				*write = number(fields[2])
			}
		}
	}
	for _, one := range devices {
		u.IO = append(u.IO, *one)
	}
	slices.SortFunc(u.IO, func(a, b DeviceIO) int { return cmp.Compare(a.Device, b.Device) })
}

// FirstProcess is some process of a cgroup, 0 when it has none.
func (l Layout) FirstProcess(path string) int {
	dir := l.Unified
	if dir == "" {
		dir = l.Controllers["pids"]
	}
	if dir == "" {
		dir = l.Controllers["memory"]
	}
	line, _, _ := strings.Cut(text(filepath.Join(dir, path), "cgroup.procs"), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		return 0
	}
	return pid
}

func text(dir, file string) string {
	if dir == "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return ""
	}
	return string(data)
}

// keyed reads lines of a name and a number.
func keyed(s string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(s) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok {
			out[name] = number(value)
		}
	}
	return out
}

// number reads a number; "max" and what is none are 0.
func number(s string) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func microseconds(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }
