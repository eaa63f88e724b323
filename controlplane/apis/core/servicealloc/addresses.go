// SPDX-License-Identifier: Apache-2.0

package servicealloc

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// managedBy is the value of networkingv1.LabelManagedBy on the IPAddress objects that this package makes; it is Kubernetes' own, so that a cluster
// can change hands in both directions.
const managedBy = "ipallocator.k8s.io"

var (
	errTaken = errors.New("provided IP is already allocated")
	errFull  = errors.New("no address is left")
)

// addresses gives the service one address per family. Those that it had and keeps are left alone.
func (c *claim) addresses(ctx context.Context, old *corev1.Service) field.ErrorList {
	s := c.service
	if !needsAddress(s) {
		return nil
	}
	if headless(s) {
		s.Spec.ClusterIP = corev1.ClusterIPNone
		return nil
	}
	had := map[netip.Addr]bool{}
	if old != nil {
		for _, ip := range addressesOf(old) {
			had[ip] = true
		}
	}
	for i, family := range s.Spec.IPFamilies {
		if i < len(s.Spec.ClusterIPs) {
			ip, err := netip.ParseAddr(s.Spec.ClusterIPs[i])
			if err != nil || had[ip] {
				continue // a wrong address is validation's business
			}
			err = c.take(ctx, ip)
			c.countAddress(ip, static, err)
			if err != nil {
				return field.ErrorList{addressError(ipsPath.Index(i), ip, err)}
			}
			continue
		}
		ip, err := c.takeAny(ctx, family)
		if err != nil {
			c.countAddress(anyOf(family), dynamic, err)
			return field.ErrorList{field.InternalError(ipsPath.Index(i), fmt.Errorf("allocate an %s address: %w", family, err))}
		}
		c.countAddress(ip, dynamic, nil)
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
	}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	return nil
}

// anyOf is some address of the family, for those who only want to name the family.
func anyOf(f corev1.IPFamily) netip.Addr {
	if f == corev1.IPv4Protocol {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func addressError(path *field.Path, ip netip.Addr, err error) *field.Error {
	var outside *outsideError
	if errors.Is(err, errTaken) || errors.As(err, &outside) {
		return field.Invalid(path, ip.String(), err.Error())
	}
	return field.InternalError(path, err)
}

// outsideError says that an address is in none of the ranges.
type outsideError struct{ ranges []netip.Prefix }

func (e *outsideError) Error() string {
	return fmt.Sprintf("the provided IP is not in the valid range. The range of valid IPs is %v", e.ranges)
}

// take claims one certain address.
func (c *claim) take(ctx context.Context, ip netip.Addr) error {
	ranges, err := c.a.ranges(familyOf(ip))
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if usable(r, ip) {
			return c.record(ctx, ip)
		}
	}
	return &outsideError{ranges}
}

// takeAny claims some address of a family: at random from the upper part of a range, so that collisions are rare and the lower part stays free for
// those who choose an address themselves; then any that is left.
func (c *claim) takeAny(ctx context.Context, family corev1.IPFamily) (netip.Addr, error) {
	ranges, err := c.a.ranges(family)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, r := range ranges {
		size := usableSize(r)
		offset := reserved(size, 16, 256)
		for range 8 {
			ip := nth(r, offset+random(size-offset))
			if err := c.record(ctx, ip); err == nil {
				return ip, nil
			} else if !errors.Is(err, errTaken) {
				return netip.Addr{}, err
			}
		}
	}
	// Crowded: look at what is taken and walk.
	list, err := c.a.cfg.Addresses.List(ctx, metav1.ListOptions{LabelSelector: networkingv1.LabelIPAddressFamily + "=" + string(family)})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list IPAddresses: %w", err)
	}
	taken := make(map[string]bool, len(list.Items))
	for i := range list.Items {
		taken[list.Items[i].Name] = true
	}
	for _, r := range ranges {
		size := usableSize(r)
		offset := reserved(size, 16, 256)
		start := offset + random(size-offset)
		for _, band := range [][2]uint64{{start, size}, {offset, start}, {0, offset}} {
			for i := band[0]; i < band[1]; i++ {
				ip := nth(r, i)
				if taken[ip.String()] {
					continue
				}
				if err := c.record(ctx, ip); err == nil {
					return ip, nil
				} else if !errors.Is(err, errTaken) {
					return netip.Addr{}, err
				}
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("%w in %v", errFull, ranges)
}

// record writes the claim: the IPAddress object whose name is the address. In a dry run it only looks whether that would work.
func (c *claim) record(ctx context.Context, ip netip.Addr) error {
	if c.dryRun {
		_, err := c.a.cfg.Addresses.Get(ctx, ip.String(), metav1.GetOptions{})
		switch {
		case err == nil || c.dryChosen[ip]:
			return errTaken
		case !apierrors.IsNotFound(err):
			return err
		}
		if c.dryChosen == nil {
			c.dryChosen = map[netip.Addr]bool{}
		}
		c.dryChosen[ip] = true
		return nil
	}
	_, err := c.a.cfg.Addresses.Create(ctx, newIPAddress(c.service, ip), metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return errTaken
	case err != nil:
		return fmt.Errorf("create IPAddress %s: %w", ip, err)
	}
	c.newIPs = append(c.newIPs, ip)
	return nil
}

func newIPAddress(s *corev1.Service, ip netip.Addr) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(familyOf(ip)),
				networkingv1.LabelManagedBy:       managedBy,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
	}
}

// releaseAddress deletes the IPAddress if it is the service's. An absent one is fine.
func (a *Allocator) releaseAddress(ctx context.Context, s *corev1.Service, ip netip.Addr) error {
	obj, err := a.cfg.Addresses.Get(ctx, ip.String(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read IPAddress %s: %w", ip, err)
	}
	if !belongsTo(obj, s.Namespace, s.Name) {
		return nil
	}
	err = a.cfg.Addresses.Delete(ctx, obj.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &obj.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete IPAddress %s: %w", ip, err)
	}
	return nil
}

func belongsTo(obj *networkingv1.IPAddress, namespace, name string) bool {
	p := obj.Spec.ParentRef
	return p != nil && p.Group == "" && p.Resource == "services" && p.Namespace == namespace && p.Name == name
}

// addressesOf are the addresses that s holds claims on.
func addressesOf(s *corev1.Service) []netip.Addr {
	if !needsAddress(s) || headless(s) {
		return nil
	}
	var out []netip.Addr
	for _, text := range s.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

// ranges are where addresses of the family come from: the configured range and those of ready ServiceCIDR objects.
func (a *Allocator) ranges(family corev1.IPFamily) ([]netip.Prefix, error) {
	var out []netip.Prefix
	seen := map[netip.Prefix]bool{}
	add := func(p netip.Prefix) {
		if p = p.Masked(); familyOf(p.Addr()) == family && !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	for _, p := range a.prefixes {
		add(p)
	}
	if a.cfg.MoreCIDRs == nil {
		return out, nil
	}
	more, err := a.cfg.MoreCIDRs()
	if err != nil {
		return nil, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	for _, c := range more {
		if !c.DeletionTimestamp.IsZero() || !ready(c) {
			continue
		}
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				add(p)
			}
		}
	}
	return out, nil
}

func ready(c *networkingv1.ServiceCIDR) bool {
	for _, cond := range c.Status.Conditions {
		if cond.Type == networkingv1.ServiceCIDRConditionReady {
			return cond.Status == metav1.ConditionTrue
		}
	}
	return false
}

// usableSize is the number of addresses of p that a service can have: not the first, which names the network, nor IPv4's last, the broadcast.
// It is capped: nobody has 2^32 services.
func usableSize(p netip.Prefix) uint64 {
	bits := p.Addr().BitLen() - p.Bits()
	if bits > 32 {
		bits = 32
	}
	size := uint64(1)<<bits - 1
	if p.Addr().Is4() && size > 0 {
		size--
	}
	return size
}

// nth is p's usable address number i, counted from 0.
func nth(p netip.Prefix, i uint64) netip.Addr {
	base := new(big.Int).SetBytes(p.Addr().AsSlice())
	base.Add(base, new(big.Int).SetUint64(i+1))
	bytes := base.FillBytes(make([]byte, p.Addr().BitLen()/8))
	ip, _ := netip.AddrFromSlice(bytes)
	return ip
}

func usable(p netip.Prefix, ip netip.Addr) bool {
	if !p.Contains(ip) || ip == p.Addr() {
		return false
	}
	return !ip.Is4() || ip.Next().IsValid() && p.Contains(ip.Next())
}

// reserved is the size of the lower band, left to those who choose for themselves: a sixteenth (or what divide says), at least 16 and at most most.
func reserved(size uint64, divide, most uint64) uint64 {
	if size <= 16 {
		return 0
	}
	return min(max(16, size/divide), most)
}

func random(n uint64) uint64 {
	if n == 0 {
		return 0
	}
	return rand.Uint64N(n)
}
