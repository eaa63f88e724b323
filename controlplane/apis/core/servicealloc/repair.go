// SPDX-License-Identifier: Apache-2.0

package servicealloc

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// grace is how long a claim may be without its Service: longer than any request lives.
const grace = 3 * time.Minute

// Repairer compares claims with Services. Each API server runs one; they do no harm to each other.
type Repairer struct {
	Allocator *Allocator
	Services  corev1client.ServicesGetter
	Clock     clock.PassiveClock // nil means the real one

	leaked map[int32]time.Time // port -> since when it was seen without owner
}

// Run repairs at once and then every interval, until ctx ends.
func (r *Repairer) Run(ctx context.Context, interval time.Duration) error {
	wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		if err := r.Repair(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Service addresses and ports were not fully repaired; trying again", "in", interval)
		}
	}, interval, 0.1, false)
	return nil
}

// Repair makes one pass: Services whose claims are missing get them, claims whose Service is gone for long are returned. What two Services both
// have is reported; it cannot be decided here which of them must give in.
func (r *Repairer) Repair(ctx context.Context) error {
	if r.Clock == nil {
		r.Clock = clock.RealClock{}
	}
	// Claims are read before Services: one without a Service now may get it a moment later, which is what the grace is for.
	addresses, err := r.Allocator.cfg.Addresses.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list IPAddresses: %w", err)
	}
	allocation, err := r.Allocator.cfg.Ports.Get(ctx)
	if err != nil {
		return fmt.Errorf("read the taken node ports: %w", err)
	}
	services, err := r.Services.Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Services: %w", err)
	}
	err = errors.Join(r.addresses(ctx, addresses.Items, services.Items), r.ports(ctx, allocation, services.Items))
	r.Allocator.gauge(ctx, addresses.Items)
	return err
}

func (r *Repairer) addresses(ctx context.Context, addresses []networkingv1.IPAddress, services []corev1.Service) error {
	log := klog.FromContext(ctx)
	claims := map[string]*networkingv1.IPAddress{}
	for i := range addresses {
		claims[addresses[i].Name] = &addresses[i]
	}
	owners := map[string]types.NamespacedName{}
	var errs []error
	for i := range services {
		s := &services[i]
		name := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
		for _, ip := range addressesOf(s) {
			text := ip.String()
			if other, ok := owners[text]; ok {
				log.Error(nil, "Two Services have one cluster address; delete and create one of them", "address", text, "services", []types.NamespacedName{other, name})
				continue
			}
			owners[text] = name
			claim := claims[text]
			if claim != nil && belongsTo(claim, s.Namespace, s.Name) {
				continue
			}
			if claim == nil {
				errs = append(errs, r.restore(ctx, s, text))
			} // a claim of somebody else is looked at below; once it is returned, the next pass restores ours
		}
	}
	for text, claim := range claims {
		p := claim.Spec.ParentRef
		if claim.Labels[networkingv1.LabelManagedBy] != managedBy || p == nil || p.Resource != "services" || p.Group != "" {
			continue // somebody else's
		}
		if owners[text] == (types.NamespacedName{Namespace: p.Namespace, Name: p.Name}) || r.Clock.Since(claim.CreationTimestamp.Time) < grace {
			continue
		}
		errs = append(errs, r.reclaim(ctx, claim))
	}
	return errors.Join(errs...)
}

// restore claims text for s again, if s still has it.
func (r *Repairer) restore(ctx context.Context, s *corev1.Service, text string) error {
	now, err := r.Services.Services(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Service %s/%s: %w", s.Namespace, s.Name, err)
	}
	for _, ip := range addressesOf(now) {
		if ip.String() != text {
			continue
		}
		_, err := r.Allocator.cfg.Addresses.Create(ctx, newIPAddress(now, ip), metav1.CreateOptions{})
		if err == nil {
			klog.FromContext(ctx).Info("Restored the claim on a cluster address", "address", text, "service", klog.KObj(now))
		} else if !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("restore IPAddress %s of Service %s/%s: %w", text, s.Namespace, s.Name, err)
		}
	}
	return nil
}

// reclaim deletes a claim after one more look at the Service it names.
func (r *Repairer) reclaim(ctx context.Context, claim *networkingv1.IPAddress) error {
	p := claim.Spec.ParentRef
	s, err := r.Services.Services(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if err == nil {
		for _, ip := range addressesOf(s) {
			if ip.String() == claim.Name {
				return nil
			}
		}
	} else if !apierrors.IsNotFound(err) {
		return fmt.Errorf("read Service %s/%s: %w", p.Namespace, p.Name, err)
	}
	err = r.Allocator.cfg.Addresses.Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &claim.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete the leaked IPAddress %s: %w", claim.Name, err)
	}
	klog.FromContext(ctx).Info("Returned a cluster address whose Service is gone", "address", claim.Name, "service", klog.KRef(p.Namespace, p.Name))
	return nil
}

func (r *Repairer) ports(ctx context.Context, allocation *corev1.RangeAllocation, services []corev1.Service) error {
	log := klog.FromContext(ctx)
	rng := r.Allocator.ports
	owners := map[int32]types.NamespacedName{}
	for i := range services {
		s := &services[i]
		name := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
		for _, n := range portsOf(s) {
			if other, ok := owners[n]; ok {
				log.Error(nil, "Two Services have one node port; change one of them", "port", n, "services", []types.NamespacedName{other, name})
			} else if !rng.contains(n) {
				log.Info("A Service has a node port outside the range", "port", n, "range", rng.String(), "service", name)
			}
			owners[n] = name
		}
	}
	taken := rng.bitmap(allocation)
	leaked := map[int32]time.Time{}
	var missing, gone []int32
	for i := range rng.size() {
		n := rng.first + int32(i)
		_, owned := owners[n]
		switch set := taken.Bit(i) == 1; {
		case owned && !set:
			missing = append(missing, n)
		case set && !owned:
			since, ok := r.leaked[n]
			if !ok {
				since = r.Clock.Now()
			}
			if r.Clock.Since(since) >= grace {
				gone = append(gone, n)
			} else {
				leaked[n] = since
			}
		}
	}
	r.leaked = leaked
	if len(missing) == 0 && len(gone) == 0 && allocation.Range == rng.String() {
		return nil
	}
	err := r.Allocator.cfg.Ports.Update(ctx, func(ra *corev1.RangeAllocation) error {
		bits := rng.bitmap(ra)
		set := func(ports []int32, value uint) {
			for _, n := range ports {
				bits.SetBit(bits, int(n-rng.first), value)
			}
		}
		set(missing, 1)
		set(gone, 0)
		rng.write(ra, bits)
		return nil
	})
	if err != nil {
		return fmt.Errorf("write the taken node ports: %w", err)
	}
	if len(missing)+len(gone) > 0 {
		log.Info("Repaired the taken node ports", "restored", missing, "returned", gone)
	}
	return nil
}

// Taken counts the node ports that are claimed now; for metrics.
func (a *Allocator) Taken(ctx context.Context) (int, error) {
	ra, err := a.cfg.Ports.Get(ctx)
	if err != nil {
		return 0, err
	}
	return popCount(a.ports.bitmap(ra)), nil
}

func popCount(n *big.Int) int {
	count := 0
	for i := range n.BitLen() {
		count += int(n.Bit(i))
	}
	return count
}
