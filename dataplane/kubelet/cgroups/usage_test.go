// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// tree writes a fake hierarchy.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	stall = "some avg10=1.50 avg60=2.00 avg300=0.00 total=3000000\nfull avg10=0.00 avg60=0.25 avg300=0.00 total=1000\n"
	want  = "cpu 2s user 1.5s system 500ms periods 10/3 throttled 20ms memory 1000/2000 limit 4096 working 900 rss 300 cache 600 swap 7 mapped 50 faults 11/2 hits 4 oom 1 " +
		"io [{254:0 1 2 300 400}] processes 2 threads 5"
)

func show(u Usage) string {
	return fmt.Sprintf("cpu %v user %v system %v periods %d/%d throttled %v memory %d/%d limit %d working %d rss %d cache %d swap %d mapped %d faults %d/%d hits %d oom %d io %v processes %d threads %d",
		u.CPU, u.User, u.System, u.Periods, u.ThrottledPeriods, u.Throttled, u.Memory, u.MemoryMax, u.MemoryLimit, u.WorkingSet, u.RSS, u.Cache, u.Swap, u.Mapped,
		u.Faults, u.Major, u.LimitHits, u.OOMKills, u.IO, u.Processes, u.Threads)
}

// The same use, told by both versions of cgroups, reads the same.
func TestUsage(t *testing.T) {
	v2 := Layout{Unified: tree(t, map[string]string{
		"a/cpu.stat":    "usage_usec 2000000\nuser_usec 1500000\nsystem_usec 500000\nnr_periods 10\nnr_throttled 3\nthrottled_usec 20000\n",
		"a/memory.stat": "anon 300\nfile 600\nfile_mapped 50\ninactive_file 100\npgfault 11\npgmajfault 2\n", "a/memory.current": "1000\n", "a/memory.peak": "2000\n",
		"a/memory.max": "4096\n", "a/memory.swap.current": "7\n", "a/memory.events": "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\n",
		"a/io.stat": "254:0 rbytes=300 wbytes=400 rios=1 wios=2 dbytes=0 dios=0\n", "a/pids.current": "5\n", "a/cgroup.procs": "11\n12\n",
		"a/cpu.pressure": stall, "a/memory.pressure": stall, "a/io.pressure": stall,
	})}
	v1 := tree(t, map[string]string{
		"cpu/a/cpu.stat": "nr_periods 10\nnr_throttled 3\nthrottled_time 20000000\n", "cpu/a/cgroup.procs": "11\n12\n", "cpu/a/cpuacct.usage": "2000000000\n", "cpu/a/cpuacct.stat": "user 150\nsystem 50\n",
		"memory/a/memory.stat":           "cache 1\ntotal_rss 300\ntotal_cache 600\ntotal_swap 7\ntotal_mapped_file 50\ntotal_inactive_file 100\ntotal_pgfault 11\ntotal_pgmajfault 2\n",
		"memory/a/memory.usage_in_bytes": "1000\n", "memory/a/memory.max_usage_in_bytes": "2000\n", "memory/a/memory.limit_in_bytes": "4096\n", "memory/a/memory.failcnt": "4\n",
		"memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "pids/a/pids.current": "5\n",
		"blkio/a/blkio.throttle.io_serviced_recursive":      "254:0 Read 1\n254:0 Write 2\n254:0 Sync 3\nTotal 3\n",
		"blkio/a/blkio.throttle.io_service_bytes_recursive": "254:0 Read 300\n254:0 Write 400\nTotal 700\n",
		"unified/a/cpu.pressure":                            stall, "unified/a/memory.pressure": stall, "unified/a/io.pressure": stall,
	})
	at := func(name string) string { return filepath.Join(v1, name) }
	hybrid := Layout{Hybrid: at("unified"), Controllers: map[string]string{"cpu": at("cpu"), "cpuacct": at("cpu"), "memory": at("memory"), "pids": at("pids"), "blkio": at("blkio")}}
	for name, layout := range map[string]Layout{"v2": v2, "hybrid": hybrid} {
		u, ok := layout.Usage("/a")
		if got := show(u); !ok || got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
		for _, p := range []*Pressure{u.CPUPressure, u.MemoryPressure, u.IOPressure} {
			if p == nil || *p != (Pressure{Some: Stall{1.5, 2, 0, 3 * time.Second}, Full: Stall{0, 0.25, 0, time.Millisecond}}) {
				t.Errorf("%s: pressure %+v", name, p)
			}
		}
		if _, ok := layout.Usage("/none"); ok {
			t.Errorf("%s: a cgroup that does not exist was read", name)
		}
	}
	if pid := v2.FirstProcess("a"); pid != 11 {
		t.Errorf("first process %d", pid)
	}
}

// TestManagerV2 drives a fake cgroup2 tree: which controllers are turned on where, and what is written for a pod.
func TestManagerV2(t *testing.T) {
	files := map[string]string{}
	for _, dir := range []string{"", "node", "node/kubepods", "node/kubepods/burstable", "node/kubepods/besteffort", "node/kubepods/burstable/poduid"} {
		for file, content := range map[string]string{"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": "", "cpu.weight": "100\n", "cpu.max": "max 100000\n", "memory.max": "max\n", "pids.max": "max\n"} {
			files[filepath.Join(dir, file)] = content
		}
	}
	root := tree(t, files)
	m := &Manager{Layout: Layout{Unified: root}, Root: "/node", PodPids: 100}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if err := m.SetUp(list("2", "1Gi")); err != nil {
		t.Fatal(err)
	}
	if err := m.Weigh(500); err != nil {
		t.Fatal(err)
	}
	if err := m.Create(podWith(list("250m", "64Mi"), list("500m", "128Mi"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"node/kubepods/memory.max": "1073741824", "node/kubepods/cpu.weight": "79", "node/kubepods/cpu.max": "max",
		"node/kubepods/besteffort/cpu.weight": "1", "node/kubepods/burstable/cpu.weight": "20",
		"node/kubepods/burstable/poduid/cpu.weight": "10", "node/kubepods/burstable/poduid/cpu.max": "50000 100000",
		"node/kubepods/burstable/poduid/memory.max": "134217728", "node/kubepods/burstable/poduid/pids.max": "100",
		"cgroup.subtree_control": "+pids", "node/kubepods/burstable/cgroup.subtree_control": "+pids", // a plain file keeps the last write
		"node/kubepods/burstable/poduid/cgroup.subtree_control": "", // containers' own are the runtime's
	} {
		if got := read(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func FuzzParsePressure(f *testing.F) {
	f.Add(stall)
	f.Add("some avg10=NaN total=-1\n")
	f.Fuzz(func(t *testing.T, text string) {
		p := ParsePressure(text)
		if p == nil {
			return
		}
		for _, s := range []Stall{p.Some, p.Full} {
			for _, avg := range []float64{s.Avg10, s.Avg60, s.Avg300} {
				if !(avg >= 0 && avg <= 100) {
					t.Errorf("%q: share %v", text, avg)
				}
			}
		}
	})
}
