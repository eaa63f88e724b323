// SPDX-License-Identifier: Apache-2.0

package usage

import (
	"context"
	"sync"
	"time"

	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const (
	fresh       = 10 * time.Second // how long a node's figures serve; kubelets themselves measure over such a time
	askTimeout  = 5 * time.Second
	askAtOnce   = 32               // kubelets asked at the same time
	forgetAfter = 10 * time.Minute // figures of a node nobody asked for
)

// Window is the time over which a kubelet measures the use of processors.
const Window = 10 * time.Second

// Summary asks a node's kubelet what the node and its pods use.
type Summary func(ctx context.Context, node string) (*statsapi.Summary, error)

// source remembers what kubelets said.
type source struct {
	ask  Summary
	slot chan struct{}

	mu    sync.Mutex
	nodes map[string]*said
}

// said is a node's last answer; its lock is held while the kubelet is asked, so that many requests ask once.
type said struct {
	mu      sync.Mutex
	at      time.Time
	summary *statsapi.Summary
}

func newSource(ask Summary) *source {
	return &source{ask: ask, slot: make(chan struct{}, askAtOnce), nodes: map[string]*said{}}
}

// get returns node's figures, at most fresh old.
func (s *source) get(ctx context.Context, node string) (*statsapi.Summary, error) {
	s.mu.Lock()
	n := s.nodes[node]
	if n == nil {
		n = &said{at: time.Now()} // not to be forgotten before it was asked
		s.forget()
		s.nodes[node] = n
	}
	s.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.summary != nil && time.Since(n.at) < fresh {
		return n.summary, nil
	}
	select {
	case s.slot <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.slot }()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	summary, err := s.ask(ctx, node)
	if err != nil {
		return nil, err
	}
	n.at, n.summary = time.Now(), summary
	return summary, nil
}

// forget drops nodes that nobody asked for; s.mu is held. One that is being asked is in use.
func (s *source) forget() {
	for name, n := range s.nodes {
		if n.mu.TryLock() {
			if time.Since(n.at) > forgetAfter {
				delete(s.nodes, name)
			}
			n.mu.Unlock()
		}
	}
}

// all returns the figures of those nodes that answer.
func (s *source) all(ctx context.Context, nodes []string) map[string]*statsapi.Summary {
	out := make(map[string]*statsapi.Summary, len(nodes))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range nodes {
		wg.Go(func() {
			summary, err := s.get(ctx, name)
			if err != nil {
				klog.FromContext(ctx).V(2).Info("A node did not say what it uses", "node", name, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = summary
		})
	}
	wg.Wait()
	return out
}
