// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"cmp"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Policy is when a node is short and what follows. Build it with NewPolicy.
type Policy struct {
	thresholds []rule
	hold       time.Duration
	maxGrace   time.Duration
}

// Settings are thresholds as configuration files write them.
type Settings struct {
	Hard, Soft map[string]string        // by signal: a quantity or a percentage that must be left
	SoftGrace  map[string]time.Duration // how long a soft threshold may be crossed; each needs one
	Reclaim    map[string]string        // by signal: how much more than the threshold must be left before it counts as relieved
	Hold       time.Duration            // a pressure condition stays at least this long after its threshold was last crossed
	MaxGrace   time.Duration            // a pod ended for a soft threshold has at most this long
}

// rule is one threshold. Soft ones wait for grace.
type rule struct {
	signal  Signal
	least   Threshold
	reclaim Threshold
	soft    bool
	grace   time.Duration
}

// key tells the hard and the soft threshold of a signal apart.
type key struct {
	signal Signal
	soft   bool
}

func (r rule) key() key { return key{r.signal, r.soft} }

// Pressure remembers since when thresholds are crossed. Not safe for concurrent use.
type Pressure struct {
	Policy
	since map[key]time.Time // first seen crossed, and not relieved since
	last  map[Signal]time.Time
}

// Watch starts with nothing crossed.
func (p Policy) Watch() *Pressure {
	return &Pressure{Policy: p, since: map[key]time.Time{}, last: map[Signal]time.Time{}}
}

// Short is one threshold that is crossed and whose grace is over.
type Short struct {
	Signal           Signal
	Least, Available uint64
	Grace            time.Duration // that a pod ended for it has at most
}

// Observe takes the levels of now and returns what must be acted on, the most urgent first: memory, then disk, then the rest.
func (p *Pressure) Observe(levels map[Signal]Level, now time.Time) []Short {
	var out []Short
	for _, r := range p.thresholds {
		level, known := levels[r.signal]
		if !known {
			continue // what cannot be measured neither crosses nor relieves
		}
		least := r.least.Least(level.Capacity)
		_, before := p.since[r.key()]
		wanted := least
		if before {
			wanted += r.reclaim.Least(level.Capacity)
		}
		if level.Available >= wanted {
			delete(p.since, r.key())
			continue
		}
		if !before {
			p.since[r.key()] = now
		}
		p.last[r.signal] = now
		if now.Sub(p.since[r.key()]) < r.grace {
			continue
		}
		short := Short{Signal: r.signal, Least: least, Available: level.Available}
		if r.soft {
			short.Grace = p.maxGrace
		}
		out = append(out, short)
	}
	slices.SortStableFunc(out, func(a, b Short) int {
		return cmp.Or(cmp.Compare(urgency(a.Signal), urgency(b.Signal)), cmp.Compare(a.Grace, b.Grace))
	})
	return out
}

// Conditions are the node conditions that are true at now: those of thresholds crossed within the hold, soft ones from their first crossing on.
func (p *Pressure) Conditions(now time.Time) []v1.NodeConditionType {
	found := map[v1.NodeConditionType]bool{}
	for signal, last := range p.last {
		if crossed := p.crossed(signal); crossed || now.Sub(last) < p.hold {
			found[Condition(signal)] = true
		} else {
			delete(p.last, signal)
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (p *Pressure) crossed(signal Signal) bool {
	_, hard := p.since[key{signal, false}]
	_, soft := p.since[key{signal, true}]
	return hard || soft
}

// Condition is the node condition a signal sets.
func Condition(signal Signal) v1.NodeConditionType {
	switch signal {
	case Memory, PodMemory:
		return v1.NodeMemoryPressure
	case Processes:
		return v1.NodePIDPressure
	}
	return v1.NodeDiskPressure
}

func urgency(signal Signal) int {
	switch Condition(signal) {
	case v1.NodeMemoryPressure:
		return 0
	case v1.NodeDiskPressure:
		return 1
	}
	return 2
}
