// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"fmt"
	"math"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/fairlead/fairlead/dataplane/kubelet/cgroups"
)

// psi turns what the kernel says into the API's form; times there are nanoseconds.
func psi(p *cgroups.Pressure) *statsapi.PSIStats {
	if p == nil {
		return nil
	}
	stall := func(s cgroups.Stall) statsapi.PSIData {
		return statsapi.PSIData{Total: uint64(s.Total), Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &statsapi.PSIStats{Some: stall(p.Some), Full: stall(p.Full)}
}

// pressure adds a cgroup's pressure and swap to what CRI said of it.
func (c *Collector) pressure(cgroup string, cpu **statsapi.CPUStats, memory **statsapi.MemoryStats, io **statsapi.IOStats, swap **statsapi.SwapStats) {
	u, ok := c.Cgroups.Usage(cgroup)
	if !ok {
		return
	}
	now := metav1.Now()
	if *cpu != nil {
		(*cpu).PSI = psi(u.CPUPressure)
	}
	if *memory != nil {
		(*memory).PSI = psi(u.MemoryPressure)
	}
	if u.IOPressure != nil {
		*io = &statsapi.IOStats{Time: now, PSI: psi(u.IOPressure)}
	}
	*swap = &statsapi.SwapStats{Time: now, SwapUsageBytes: &u.Swap}
}

// systemContainers are the kubelet's own process and all pods together.
func (c *Collector) systemContainers(now metav1.Time) []statsapi.ContainerStats {
	var out []statsapi.ContainerStats
	usage, rss, started := self()
	out = append(out, statsapi.ContainerStats{
		Name: statsapi.SystemContainerKubelet, StartTime: metav1.NewTime(started),
		CPU:    &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: &usage},
		Memory: &statsapi.MemoryStats{Time: now, UsageBytes: &rss, WorkingSetBytes: &rss, RSSBytes: &rss},
	})
	if u, ok := c.Cgroups.Usage(cgroups.Parent(c.CgroupRoot, v1.PodQOSGuaranteed)); ok {
		total := uint64(u.CPU)
		pods := statsapi.ContainerStats{
			Name: statsapi.SystemContainerPods, CPU: &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: &total, PSI: psi(u.CPUPressure)},
			Memory: &statsapi.MemoryStats{Time: now, UsageBytes: &u.Memory, WorkingSetBytes: &u.WorkingSet, RSSBytes: &u.RSS,
				PageFaults: &u.Faults, MajorPageFaults: &u.Major, PSI: psi(u.MemoryPressure)},
		}
		if u.MemoryLimit > 0 {
			left := u.MemoryLimit - min(u.WorkingSet, u.MemoryLimit)
			pods.Memory.AvailableBytes = &left
		}
		out = append(out, pods)
	}
	return out
}

// PodMemory is the memory all pods together may have and what of it is left; false where the host has no limit or no counter for it.
func (c *Collector) PodMemory() (capacity, available uint64, ok bool) {
	u, ok := c.Cgroups.Usage(cgroups.Parent(c.CgroupRoot, v1.PodQOSGuaranteed))
	if !ok || u.MemoryLimit == 0 {
		return 0, 0, false
	}
	return u.MemoryLimit, u.MemoryLimit - min(u.WorkingSet, u.MemoryLimit), true
}

// self is this process's CPU time in ns, resident memory in bytes, and start.
func self() (usage, rss uint64, started time.Time) {
	data, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, 0, time.Time{}
	}
	s := string(data)
	for i := len(s) - 1; i >= 0; i-- { // the name, in parentheses, may have anything in it
		if s[i] == ')' {
			s = s[i+1:]
			break
		}
	}
	var state string
	var skip, user, system, start, pages int64
	_, err = fmt.Sscan(s, &state, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &user, &system, &skip, &skip, &skip, &skip, &skip, &skip,
		&start, &skip, &pages)
	if err != nil {
		return 0, 0, time.Time{}
	}
	const tick = int64(time.Second) / 100 // USER_HZ
	return uint64((user + system) * tick), uint64(pages) * uint64(os.Getpagesize()), bootTime().Add(time.Duration(start * tick))
}

// Note writes the node's pressure for the scheduler, "cpu=12,memory=0,io=3": the share of the last minute, in percent, in which some task waited.
// It changes only when a share moved by five points or more, or has gone, so that a busy node is not written all the time.
type Note struct{ cpu, memory, io int }

const noteStep = 5

// Update takes the pressure of now and returns the text.
func (n *Note) Update(cpu, memory, io *cgroups.Pressure) string {
	follow := func(kept *int, p *cgroups.Pressure) {
		now := 0
		if p != nil {
			now = int(math.Round(p.Some.Avg60))
		}
		if difference := now - *kept; difference >= noteStep || difference <= -noteStep || now == 0 {
			*kept = now
		}
	}
	follow(&n.cpu, cpu)
	follow(&n.memory, memory)
	follow(&n.io, io)
	return fmt.Sprintf("cpu=%d,memory=%d,io=%d", n.cpu, n.memory, n.io)
}
