// SPDX-License-Identifier: Apache-2.0

package servicealloc

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/controlplane/apis/core"
)

// IPAddresses is what allocation needs of the IPAddress API; client-go's typed client has it.
type IPAddresses interface {
	Create(context.Context, *networkingv1.IPAddress, metav1.CreateOptions) (*networkingv1.IPAddress, error)
	Get(ctx context.Context, name string, options metav1.GetOptions) (*networkingv1.IPAddress, error)
	List(context.Context, metav1.ListOptions) (*networkingv1.IPAddressList, error)
	Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
}

// Config is what an Allocator works with.
type Config struct {
	// CIDRs are the configured service ranges, the cluster's default family first, at most one per family. They count even before there is a
	// ServiceCIDR object for them.
	CIDRs []string
	// MoreCIDRs returns the ServiceCIDR objects there are, from a cache; nil means none.
	MoreCIDRs func() ([]*networkingv1.ServiceCIDR, error)
	Addresses IPAddresses
	// NodePorts is "from-to", both included; empty means 30000-32767.
	NodePorts string
	// Ports keeps the taken ports (StoredPorts, or a fake in tests).
	Ports Ranges
}

// Allocator hands out addresses and ports. Safe for concurrent use, also by several processes on one store.
type Allocator struct {
	cfg      Config
	families []corev1.IPFamily // the default family first
	prefixes []netip.Prefix
	ports    portRange
}

// New checks cfg and returns its Allocator.
func New(cfg Config) (*Allocator, error) {
	registerMetrics()
	a := &Allocator{cfg: cfg}
	for _, text := range cfg.CIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("service CIDR %q: %w", text, err)
		}
		family := familyOf(p.Addr())
		for _, other := range a.families {
			if other == family {
				return nil, fmt.Errorf("service CIDRs %v: two of family %s, at most one is allowed", cfg.CIDRs, family)
			}
		}
		a.prefixes, a.families = append(a.prefixes, p.Masked()), append(a.families, family)
	}
	if len(a.prefixes) == 0 {
		return nil, fmt.Errorf("service CIDRs: none is configured")
	}
	if cfg.NodePorts == "" {
		a.cfg.NodePorts = "30000-32767"
	}
	var err error
	a.ports, err = parsePortRange(a.cfg.NodePorts)
	return a, err
}

// Attach hooks the allocator into the storage of Services.
func (a *Allocator) Attach(services *genericregistry.Store) {
	services.BeginCreate = func(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
		finish, err := a.Create(ctx, obj.(*corev1.Service), dryrun.IsDryRun(options.DryRun))
		return genericregistry.FinishFunc(finish), err
	}
	services.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, options *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
		finish, err := a.Update(ctx, obj.(*corev1.Service), old.(*corev1.Service), dryrun.IsDryRun(options.DryRun))
		return genericregistry.FinishFunc(finish), err
	}
	services.AfterDelete = func(obj runtime.Object, options *metav1.DeleteOptions) {
		if !dryrun.IsDryRun(options.DryRun) {
			a.Release(context.Background(), obj.(*corev1.Service))
		}
	}
}

// Finish ends an allocation: with success, what the Service no longer uses is returned; without, what it was newly given.
type Finish func(ctx context.Context, success bool)

// Create settles families, addresses and ports of a Service in the making. On error nothing stays claimed.
func (a *Allocator) Create(ctx context.Context, s *corev1.Service, dryRun bool) (Finish, error) {
	core.FitService(s, nil)
	return a.change(ctx, s, nil, dryRun)
}

// Update settles what changes from old to s. On error nothing changes.
func (a *Allocator) Update(ctx context.Context, s, old *corev1.Service, dryRun bool) (Finish, error) {
	core.FitService(s, old)
	return a.change(ctx, s, old, dryRun)
}

// Release returns everything that a deleted Service had.
func (a *Allocator) Release(ctx context.Context, s *corev1.Service) {
	a.giveBack(ctx, s, addressesOf(s), portsOf(s))
}

func (a *Allocator) change(ctx context.Context, s, old *corev1.Service, dryRun bool) (Finish, error) {
	if errs := a.settleFamilies(s, old); len(errs) > 0 {
		return nil, invalid(s, errs)
	}
	claim := &claim{a: a, service: s, dryRun: dryRun}
	errs := claim.addresses(ctx, old)
	if len(errs) == 0 {
		errs = claim.ports(ctx, old)
	}
	if len(errs) > 0 {
		claim.undo(ctx)
		return nil, invalid(s, errs)
	}
	var before *corev1.Service
	if old != nil {
		before = old.DeepCopy()
	}
	return func(ctx context.Context, success bool) {
		if dryRun {
			return
		}
		// The request may be over; its claims are settled all the same.
		ctx = context.WithoutCancel(ctx)
		switch {
		case !success:
			claim.undo(ctx)
		case before != nil:
			a.giveBack(ctx, before, without(addressesOf(before), addressesOf(s)), without(portsOf(before), portsOf(s)))
		}
	}, nil
}

// claim collects what one request was given, to take it back.
type claim struct {
	a         *Allocator
	service   *corev1.Service
	dryRun    bool
	newIPs    []netip.Addr
	newPorts  []int32
	dryPorts  map[int32]bool // ports that a dry run would have taken
	dryChosen map[netip.Addr]bool
}

func (c *claim) undo(ctx context.Context) {
	if !c.dryRun {
		c.a.giveBack(context.WithoutCancel(ctx), c.service, c.newIPs, c.newPorts)
	}
}

// giveBack returns addresses and ports. What cannot be returned now is left to repair.
func (a *Allocator) giveBack(ctx context.Context, s *corev1.Service, ips []netip.Addr, ports []int32) {
	log := klog.FromContext(ctx).WithValues("service", klog.KObj(s))
	for _, ip := range ips {
		if err := a.releaseAddress(ctx, s, ip); err != nil {
			log.Error(err, "Cluster address was not returned; repair will", "address", ip)
		}
	}
	if err := a.releasePorts(ctx, ports); err != nil {
		log.Error(err, "Node ports were not returned; repair will", "ports", ports)
	}
}

func invalid(s *corev1.Service, errs field.ErrorList) error {
	for _, e := range errs {
		if e.Type == field.ErrorTypeInternal {
			return apierrors.NewInternalError(fmt.Errorf("allocate for service %s/%s: %w", s.Namespace, s.Name, e))
		}
	}
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}

func without[T comparable](list, minus []T) []T {
	gone := map[T]bool{}
	for _, x := range minus {
		gone[x] = true
	}
	var out []T
	for _, x := range list {
		if !gone[x] {
			out = append(out, x)
		}
	}
	return out
}
