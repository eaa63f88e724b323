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
