// SPDX-License-Identifier: Apache-2.0

// Package servicecidr guards ServiceCIDRs: one becomes Ready when it is accepted, and one that is deleted stays until no IPAddress needs it.
//
// It watches ServiceCIDRs and IPAddresses, and writes the finalizer and conditions of ServiceCIDRs. Addresses are handed out by the API server.
package servicecidr

import (
	"context"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	finalizer = "networking.k8s.io/service-cidr-finalizer"
	// settle is how long a range must be seen as being deleted before it goes, so that every API server has stopped to allocate from it.
	settle = 10 * time.Second
)

type loop struct {
	c         *controller.Context
	queue     *controller.Queue
	ranges    networkinglisters.ServiceCIDRLister
	addresses networkinglisters.IPAddressLister
	synced    []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("service-cidrs-controller", "service-cidrs-controller")
	ranges, addresses := c.Informers.Networking().V1().ServiceCIDRs(), c.Informers.Networking().V1().IPAddresses()
	l := &loop{
		c: c, ranges: ranges.Lister(), addresses: addresses.Lister(),
		synced: []cache.InformerSynced{ranges.Informer().HasSynced, addresses.Informer().HasSynced},
	}
	l.queue = c.Queue("servicecidr", l.sync)
	controller.On(ranges.Informer(), func(any) { l.wake(func(*networkingv1.ServiceCIDR) bool { return true }) }) // ranges cover for each other
	controller.Watch(addresses.Informer(), func(old, obj any) {
		if old == obj {
			l.wake(func(r *networkingv1.ServiceCIDR) bool { return r.DeletionTimestamp != nil })
		}
	})
	return l
}

func (l *loop) wake(which func(*networkingv1.ServiceCIDR) bool) {
	all, err := l.ranges.List(labels.Everything())
	if err != nil {
		return
	}
	for _, r := range all {
		if which(r) {
			l.queue.Enqueue(r)
		}
	}
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, 1, l.synced...)
}

func (l *loop) sync(ctx context.Context, name string) error {
	r, err := l.ranges.Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	r = r.DeepCopy()
	has := slices.Contains(r.Finalizers, finalizer)
	if r.DeletionTimestamp == nil {
		if !has {
			r.Finalizers = append(r.Finalizers, finalizer)
			if r, err = l.c.Client.NetworkingV1().ServiceCIDRs().Update(ctx, r, metav1.UpdateOptions{}); err != nil {
				return controller.IgnoreNotFound(err)
			}
		}
		return l.ready(ctx, r, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
	}
	if !has {
		return nil
	}
	needed, err := l.needed(r)
	if err != nil {
		return err
	}
	if needed {
		return l.ready(ctx, r, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating, "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR")
	}
	if err := l.ready(ctx, r, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating, "The ServiceCIDR is being deleted"); err != nil {
		return err
	}
	if left := r.DeletionTimestamp.Add(settle).Sub(l.c.Clock.Now()); left > 0 {
		l.queue.AddAfter(name, left)
		return nil
	}
	live, err := l.c.Client.NetworkingV1().ServiceCIDRs().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	live.Finalizers = controller.Filter(live.Finalizers, func(f string) bool { return f != finalizer })
	_, err = l.c.Client.NetworkingV1().ServiceCIDRs().Update(ctx, live, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

// needed reports whether an address lies in r and in no other range that stays.
func (l *loop) needed(r *networkingv1.ServiceCIDR) (bool, error) {
	all, err := l.ranges.List(labels.Everything())
	if err != nil {
		return true, err
	}
	addresses, err := l.addresses.List(labels.Everything())
	if err != nil {
		return true, err
	}
	mine := prefixes(r)
	var others []netip.Prefix
	for _, other := range all {
		if other.Name != r.Name && other.DeletionTimestamp == nil {
			others = append(others, prefixes(other)...)
		}
	}
	for _, a := range addresses {
		ip, err := netip.ParseAddr(a.Name)
		if err != nil {
			continue
		}
		in := func(p netip.Prefix) bool { return p.Contains(ip) }
		if slices.ContainsFunc(mine, in) && !slices.ContainsFunc(others, in) {
			return true, nil
		}
	}
	return false, nil
}

func prefixes(r *networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range r.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func (l *loop) ready(ctx context.Context, r *networkingv1.ServiceCIDR, status metav1.ConditionStatus, reason, message string) error {
	was := r.Status.DeepCopy()
	if reason == "" {
		reason = "NetworkReady"
	}
	meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: status, Reason: reason, Message: message})
	if equality.Semantic.DeepEqual(*was, r.Status) {
		return nil
	}
	_, err := l.c.Client.NetworkingV1().ServiceCIDRs().UpdateStatus(ctx, r, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}
