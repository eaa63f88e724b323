// SPDX-License-Identifier: Apache-2.0

package nodelifecycle

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	normalInterval  = 10 * time.Second  // between two nodes of a healthy zone
	slowInterval    = 100 * time.Second // between two nodes of a large zone of which much is down
	largeZone       = 50                // nodes; a smaller zone of which much is down evicts nothing
	unhealthyShare  = 0.55              // of a zone's nodes down makes it disrupted
	recheckInterval = 10 * time.Second  // of a node that may not be evicted now
	// consider is how long a node must have been down before it is evicted: the others of its zone that went down with it must be known by then.
	consider = 5 * time.Second
)

type nodeState int

const (
	unaccounted nodeState = iota
	ready
	notReady
	unknown
)

func stateOf(node *corev1.Node) nodeState {
	c := condition(node, corev1.NodeReady)
	switch {
	case c == nil:
		return ready // has not reported yet and is still allowed to
	case c.Status == corev1.ConditionTrue:
		return ready
	case c.Status == corev1.ConditionFalse:
		return notReady
	}
	return unknown
}

// zone is a failure domain with a pace of its own: when much of it is down at once, the reason is more likely the network than the nodes, and evicting everything would
// make it worse.
type zone struct {
	up, down int
	next     time.Time // when another node may be evicted
}

func zoneOf(node *corev1.Node) string {
	return node.Labels[corev1.LabelTopologyRegion] + "/" + node.Labels[corev1.LabelTopologyZone]
}

// account moves node to the zone and state it is in now.
func (l *loop) account(node *corev1.Node, state nodeState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.heartbeatLocked(node.Name)
	l.countLocked(h, -1)
	if state != ready && (h.state == ready || h.state == unaccounted) {
		h.downSince = l.c.Clock.Now()
	}
	h.zone, h.state = zoneOf(node), state
	l.countLocked(h, +1)
}

func (l *loop) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.seen[name]; h != nil {
		l.countLocked(h, -1)
		delete(l.seen, name)
	}
}

func (l *loop) countLocked(h *heartbeat, n int) {
	if h.state == unaccounted {
		return
	}
	z := l.zones[h.zone]
	if z == nil {
		z = &zone{}
		l.zones[h.zone] = z
	}
	if h.state == ready {
		z.up += n
	} else {
		z.down += n
	}
	if z.up+z.down == 0 {
		delete(l.zones, h.zone)
	}
}

// mayEvict takes the permission to evict a node. It returns 0 when it is given, else when to ask again.
func (l *loop) mayEvict(node *corev1.Node) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.c.Clock.Now()
	if wait := l.heartbeatLocked(node.Name).downSince.Add(consider).Sub(now); wait > 0 {
		return wait
	}
	z := l.zones[zoneOf(node)]
	if z == nil {
		return recheckInterval
	}
	interval, allowed := z.interval(l.allDownLocked())
	if !allowed {
		return recheckInterval
	}
	if wait := z.next.Sub(now); wait > 0 {
		return wait
	}
	z.next = now.Add(interval)
	return 0
}

// interval is the zone's pace. everything says that no node of any zone is up: then it is us who are cut off, and nobody is evicted.
func (z *zone) interval(everything bool) (time.Duration, bool) {
	disrupted := z.down > 2 && float64(z.down)/float64(z.up+z.down) >= unhealthyShare
	switch {
	case everything:
		return 0, false
	case z.up == 0 || !disrupted: // a zone that is down as a whole while others live is really down
		return normalInterval, true
	case z.up+z.down > largeZone:
		return slowInterval, true
	}
	return 0, false
}

func (l *loop) allDownLocked() bool {
	down := 0
	for _, z := range l.zones {
		if z.up > 0 {
			return false
		}
		down += z.down
	}
	return down > 0
}
