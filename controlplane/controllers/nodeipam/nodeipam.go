// SPDX-License-Identifier: Apache-2.0

// Package nodeipam gives every node a block of each cluster CIDR, from which the node's agent gives addresses to pods.
//
// It watches Nodes and writes spec.podCIDR and spec.podCIDRs of nodes that have none. What a node has is never changed, also when it lies outside
// the cluster CIDRs: its pods use those addresses.
package nodeipam

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

type loop struct {
	c     *controller.Context
	queue *controller.Queue
	nodes corelisters.NodeLister
	ready cache.InformerSynced

	mu     sync.Mutex
	sets   []*cidrSet // one per family, in the order of the settings: the first is the node's primary
	failed error      // the settings cannot be used
}

// New returns the controller. Settings that cannot be used make its Run fail.
func New(c *controller.Context) controller.Controller {
	c = c.As("node-controller", "cidrAllocator")
	nodes := c.Informers.Core().V1().Nodes()
	l := &loop{c: c, nodes: nodes.Lister(), ready: nodes.Informer().HasSynced}
	l.sets, l.failed = newSets(c.Settings)
	l.queue = c.Queue("nodeipam", l.sync)
	controller.Watch(nodes.Informer(), func(old, obj any) {
		if node, ok := controller.Object[*corev1.Node](obj); ok && old == obj {
			l.released(node)
		}
		l.queue.Enqueue(obj)
	})
	return l
}

func newSets(s controller.Settings) ([]*cidrSet, error) {
	var sets []*cidrSet
	for _, text := range s.ClusterCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("cluster CIDR: %w", err)
		}
		mask := s.NodeMaskIPv6
		if mask == 0 {
			mask = 64
		}
		if p.Addr().Is4() {
			if mask = s.NodeMaskIPv4; mask == 0 {
				mask = 24
			}
		}
		set, err := newCIDRSet(p, mask)
		if err != nil {
			return nil, err
		}
		for _, service := range s.ServiceCIDRs {
			if sp, err := netip.ParsePrefix(service); err == nil {
				set.occupy(sp, reserved)
			}
		}
		sets = append(sets, set)
	}
	return sets, nil
}

func (l *loop) Run(ctx context.Context) error {
	if l.failed != nil {
		return l.failed
	}
	if !cache.WaitForCacheSync(ctx.Done(), l.ready) {
		return ctx.Err()
	}
	// All blocks in use are known before the first is given away.
	nodes, err := l.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, node := range nodes {
		l.occupied(ctx, node)
	}
	return l.queue.Run(ctx, l.c.Settings.Workers, l.ready)
}

// sync gives a node its blocks.
func (l *loop) sync(ctx context.Context, name string) error {
	node, err := l.nodes.Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	if len(node.Spec.PodCIDRs) > 0 || node.Spec.PodCIDR != "" {
		l.occupied(ctx, node)
		return nil
	}
	if node.DeletionTimestamp != nil || len(l.sets) == 0 {
		return nil
	}
	blocks, err := l.allocate(name)
	if err != nil {
		l.c.Events.Eventf(&corev1.ObjectReference{Kind: "Node", Name: name, UID: types.UID(name)}, corev1.EventTypeWarning, "CIDRNotAvailable",
			"The node gets no pod addresses: %v", err)
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": node.UID}, "spec": map[string]any{"podCIDR": blocks[0], "podCIDRs": blocks}})
	if err != nil {
		return err
	}
	if _, err := l.c.Client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		// The patch may have arrived although the answer did not, so the blocks stay the node's: its next sync finds them, its deletion frees them.
		return fmt.Errorf("set the pod CIDRs of node %s: %w", name, err)
	}
	return nil
}

// allocate returns the blocks that name already holds, or new ones; on error it holds what it held before.
func (l *loop) allocate(name string) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var blocks []netip.Prefix
	for _, set := range l.sets {
		block, ok := set.held(name)
		if !ok {
			block, ok = set.allocate(name)
		}
		if !ok {
			for i, b := range blocks {
				l.sets[i].release(b, name)
			}
			return nil, fmt.Errorf("all %d blocks of /%d in the cluster CIDR %s are in use; delete nodes or enlarge the CIDR", len(set.owner), set.bits, set.base)
		}
		blocks = append(blocks, block)
	}
	out := make([]string, len(blocks))
	for i, b := range blocks {
		out[i] = b.String()
	}
	return out, nil
}

// held finds the block that node holds.
func (s *cidrSet) held(node string) (netip.Prefix, bool) {
	for i, owner := range s.owner {
		if owner == node {
			return s.block(i), true
		}
	}
	return netip.Prefix{}, false
}

func (l *loop) occupied(ctx context.Context, node *corev1.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range podCIDRs(node) {
		for _, set := range l.sets {
			if other := set.occupy(p, node.Name); other != "" {
				klog.FromContext(ctx).Info("Two nodes claim the same pod addresses", "node", node.Name, "other", other, "cidr", p)
			}
		}
	}
}

func (l *loop) released(node *corev1.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, set := range l.sets {
		for _, p := range podCIDRs(node) {
			set.release(p, node.Name)
		}
		if p, ok := set.held(node.Name); ok { // given, but the node never showed it
			set.release(p, node.Name)
		}
	}
}

func podCIDRs(node *corev1.Node) []netip.Prefix {
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 && node.Spec.PodCIDR != "" {
		texts = []string{node.Spec.PodCIDR}
	}
	var out []netip.Prefix
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}
