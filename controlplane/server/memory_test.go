// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCollectionFollowsAllocation(t *testing.T) {
	const mb = 1e6
	type look struct {
		allocates, live float64 // bytes, in the second before the look
		percent         int
		relax           bool
	}
	for _, c := range []struct {
		name  string
		quiet int
		looks []look
	}{
		{"an idle server gives the start's memory back at once", quietLooks - 1, []look{{2 * mb, 100 * mb, idleGC, true}, {2 * mb, 100 * mb, idleGC, false}}},
		{"a busy one collects every four seconds", 0, []look{{100 * mb, 100 * mb, 400, false}}},
		{"garbage stays below the ceiling", 0, []look{{1000 * mb, 100 * mb, 500, false}}},
		{"a large heap may have as much garbage as there is alive", 0, []look{{2000 * mb, 1000 * mb, 100, false}}},
		{"the more there is to mark, the more rarely", 0, []look{{60 * mb, 400 * mb, 96, false}}},
		{"a pause keeps what was chosen", 0, []look{{100 * mb, 100 * mb, 400, false}, {0, 100 * mb, 400, false}}},
		{"memory is given back once, after ten quiet looks", quietLooks - 3, []look{{0, 100 * mb, startGC, false}, {0, 100 * mb, startGC, false}, {0, 100 * mb, idleGC, true}, {0, 100 * mb, idleGC, false}}},
		{"nothing alive is known before the first collection", 0, []look{{0, 0, startGC, false}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Unix(0, 0)
			g := &collector{ceiling: 500 * mb, percent: startGC, at: now, quiet: c.quiet}
			allocated := 0.0
			for i, l := range c.looks {
				now = now.Add(time.Second)
				allocated += l.allocates
				percent, relax := g.next(now, allocated, l.live)
				if percent != l.percent || relax != l.relax {
					t.Errorf("look %d: GOGC %d, relax %t; want %d, %t", i, percent, relax, l.percent, l.relax)
				}
				g.percent = percent
			}
		})
	}
}

func TestMemoryOfControlGroups(t *testing.T) {
	for _, c := range []struct {
		name, groups string
		files        map[string]string
		want         float64
	}{
		{"version 2, limited", "0::/a/b\n", map[string]string{"sys/fs/cgroup/a/b/memory.max": "1000\n"}, 1000},
		{"version 2, limited above", "0::/a/b\n", map[string]string{"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "2000\n"}, 2000},
		{"version 1", "4:cpu,cpuacct:/x\n3:memory:/x\n0::/\n", map[string]string{"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "3000\n"}, 3000},
		{"another controller's file", "4:cpu:/x\n", map[string]string{"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "3000\n"}, math.Inf(1)},
		{"not limited", "0::/a\n", map[string]string{"sys/fs/cgroup/a/memory.max": "max\n"}, math.Inf(1)},
		{"lines that are none", "nonsense\n\n", nil, math.Inf(1)},
	} {
		root := t.TempDir()
		write := func(name, content string) {
			path := filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		write("proc/self/cgroup", c.groups)
		for name, content := range c.files {
			write(name, content)
		}
		if got := cgroupMemory(root); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := cgroupMemory(t.TempDir()); !math.IsInf(got, 1) {
		t.Errorf("without /proc: %v, want no limit", got)
	}
}
