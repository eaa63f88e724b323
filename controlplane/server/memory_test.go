// SPDX-License-Identifier: Apache-2.0

package server

import (
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

func TestProgramPages(t *testing.T) {
	for _, c := range []struct {
		name, line string
		ok         bool
	}{
		{"code of the program", "00400000-02fc9000 r-xp 00000000 08:01 1234 /usr/bin/fairlead\n", true},
		{"its constants", "02fc9000-05000000 r--p 02bc9000 08:01 1234 /usr/bin/fairlead\n", true},
		{"its variables", "05000000-05100000 rw-p 04c00000 08:01 1234 /usr/bin/fairlead\n", false},
		{"another file", "7f0000000000-7f0000001000 r-xp 00000000 08:01 99 /lib/libc.so\n", false},
		{"a file that was replaced", "00400000-02fc9000 r-xp 00000000 08:01 1234 /usr/bin/fairlead (deleted)\n", false},
		{"memory of no file", "c000000000-c000400000 rw-p 00000000 00:00 0\n", false},
		{"no range", "00400000 r-xp 00000000 08:01 1234 /usr/bin/fairlead\n", false},
	} {
		from, to, ok := programPages(c.line, "/usr/bin/fairlead")
		if ok != c.ok || ok && from >= to {
			t.Errorf("%s: %x-%x, %t; want %t", c.name, from, to, ok, c.ok)
		}
	}
	from, to, _ := programPages("00400000-02fc9000 r-xp 00000000 08:01 1234 /usr/bin/fairlead\n", "/usr/bin/fairlead")
	if from != 0x400000 || to != 0x2fc9000 {
		t.Errorf("read %x-%x, want 400000-2fc9000", from, to)
	}
	if err := unmapIdle(); err != nil {
		t.Error(err)
	}
}
