// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
)

// deviceFeatures are the parts of structured parameters that are stable or beta.
var deviceFeatures = structured.Features{AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true, ConsumableCapacity: true}

// deviceTimeout bounds the search for devices on one node.
const deviceTimeout = 10 * time.Second

// Devices holds the objects that device claims resolve through, and the allocations that are decided and not in the API yet.
type Devices struct {
	claims  map[string]*resourcev1.ResourceClaim // by namespace/name
	slices  map[string]*resourcev1.ResourceSlice
	classes map[string]*resourcev1.DeviceClass
	assumed map[types.UID]*resourcev1.AllocationResult // by claim
	cache   *cel.Cache
}

// NewDevices returns an empty set.
func NewDevices() *Devices {
	return &Devices{claims: map[string]*resourcev1.ResourceClaim{}, slices: map[string]*resourcev1.ResourceSlice{}, classes: map[string]*resourcev1.DeviceClass{},
		assumed: map[types.UID]*resourcev1.AllocationResult{}, cache: cel.NewCache(256, cel.Features{EnableConsumableCapacity: true})}
}

// SetClaim adds or updates a claim. An assumed allocation ends when the claim has one.
func (d *Devices) SetClaim(c *resourcev1.ResourceClaim) {
	d.claims[c.Namespace+"/"+c.Name] = c
	if c.Status.Allocation != nil {
		delete(d.assumed, c.UID)
	}
}

// DeleteClaim removes a claim.
func (d *Devices) DeleteClaim(c *resourcev1.ResourceClaim) {
	delete(d.claims, c.Namespace+"/"+c.Name)
	delete(d.assumed, c.UID)
}

// SetSlice adds or updates a slice; DeleteSlice, SetClass and DeleteClass do what their names say.
func (d *Devices) SetSlice(s *resourcev1.ResourceSlice) { d.slices[s.Name] = s }

// DeleteSlice removes a slice.
func (d *Devices) DeleteSlice(s *resourcev1.ResourceSlice) { delete(d.slices, s.Name) }

// SetClass adds or updates a device class.
func (d *Devices) SetClass(c *resourcev1.DeviceClass) { d.classes[c.Name] = c }

// DeleteClass removes a device class.
func (d *Devices) DeleteClass(c *resourcev1.DeviceClass) { delete(d.classes, c.Name) }

// List and Get make Devices the allocator's lister of classes.
func (d *Devices) List() ([]*resourcev1.DeviceClass, error) {
	var all []*resourcev1.DeviceClass
	for _, c := range d.classes {
		all = append(all, c)
	}
	return all, nil
}

// Get returns a class by name.
func (d *Devices) Get(name string) (*resourcev1.DeviceClass, error) {
	if c := d.classes[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(resourcev1.Resource("deviceclasses"), name)
}

// DeviceDecision says what will happen to the device claims of one pod.
type DeviceDecision struct {
	Claims      []*resourcev1.ResourceClaim
	Allocations []*resourcev1.AllocationResult // of Claims; nil for a claim that is allocated already
}

// Assume keeps the decided devices from other pods. Forget takes that back if the decision could not be written; if it was, SetClaim does.
func (d *Devices) Assume(decision *DeviceDecision) {
	for i, c := range decision.Claims {
		if decision.Allocations[i] != nil {
			d.assumed[c.UID] = decision.Allocations[i]
		}
	}
}

// Forget takes back what Assume did.
func (d *Devices) Forget(decision *DeviceDecision) {
	for _, c := range decision.Claims {
		delete(d.assumed, c.UID)
	}
}

// allocated lists the devices in use.
func (d *Devices) allocated() structured.AllocatedState {
	state := structured.AllocatedState{AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity: structured.NewConsumedCapacityCollection()}
	add := func(a *resourcev1.AllocationResult) {
		for _, r := range a.Devices.Results {
			if r.AdminAccess != nil && *r.AdminAccess {
				continue // looks at devices without taking them
			}
			id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
			if r.ShareID == nil {
				state.AllocatedDevices.Insert(id)
				continue
			}
			state.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, r.ShareID))
			state.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity))
		}
	}
	for _, c := range d.claims {
		if c.Status.Allocation != nil {
			add(c.Status.Allocation)
		}
	}
	for _, a := range d.assumed {
		add(a)
	}
	return state
}

// deviceSearch is the search for one pod's devices.
type deviceSearch struct {
	claims    []*resourcev1.ResourceClaim // all of the pod
	open      []*resourcev1.ResourceClaim // those without an allocation
	reachable []*nodeaffinity.NodeSelector
	allocator structured.Allocator
}

// searchDevices resolves pod's device claims. blocked says why the pod can go nowhere.
func (d *Devices) searchDevices(pod *v1.Pod) (s *deviceSearch, blocked string) {
	s = &deviceSearch{}
	for i := range pod.Spec.ResourceClaims {
		name, mine, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err.Error()
		}
		if name == nil {
			continue
		}
		claim := d.claims[pod.Namespace+"/"+*name]
		if claim == nil {
			return nil, fmt.Sprintf("resourceclaim %q not found", *name)
		}
		if claim.DeletionTimestamp != nil {
			return nil, fmt.Sprintf("resourceclaim %q is being deleted", *name)
		}
		if mine {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return nil, err.Error()
			}
		}
		s.claims = append(s.claims, claim)
		allocation := claim.Status.Allocation
		if allocation == nil {
			allocation = d.assumed[claim.UID]
		}
		switch {
		case allocation == nil:
			s.open = append(s.open, claim)
		case !resourceclaim.IsReservedForPod(pod, claim, false) && len(claim.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize:
			return nil, fmt.Sprintf("resourceclaim %q is used by as many pods as may share it", *name)
		case allocation.NodeSelector != nil:
			selector, err := nodeaffinity.NewNodeSelector(allocation.NodeSelector)
			if err != nil {
				return nil, fmt.Sprintf("resourceclaim %q: node selector of its allocation: %v", *name, err)
			}
			s.reachable = append(s.reachable, selector)
		}
	}
	if len(s.open) == 0 {
		return s, ""
	}
	var all []*resourcev1.ResourceSlice
	for _, slice := range d.slices {
		all = append(all, slice)
	}
	slices.SortFunc(all, func(a, b *resourcev1.ResourceSlice) int { return compareStrings(a.Name, b.Name) })
	var err error
	if s.allocator, err = structured.NewAllocator(context.Background(), deviceFeatures, d.allocated(), d, all, d.cache); err != nil {
		return nil, err.Error()
	}
	return s, ""
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// on looks for devices on n. blocked is set if no node can answer, e.g. because a selector does not compile.
func (s *deviceSearch) on(e *Evaluator, n *cluster.Node) (decision *DeviceDecision, reason Reason, blocked string) {
	for _, selector := range s.reachable {
		if !selector.Match(n.Object) {
			return nil, e.reasons.intern(DynamicResources, true, "resourceclaim not available on the node"), ""
		}
	}
	decision = &DeviceDecision{Claims: s.claims, Allocations: make([]*resourcev1.AllocationResult, len(s.claims))}
	if len(s.open) == 0 {
		return decision, fits, ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), deviceTimeout)
	defer cancel()
	results, err := s.allocator.Allocate(ctx, n.Object, s.open)
	switch {
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return nil, e.reasons.intern(DynamicResources, true, err.Error()), ""
	case errors.Is(err, context.DeadlineExceeded):
		return nil, e.reasons.intern(DynamicResources, true, "timed out trying to allocate devices"), ""
	case err != nil:
		return nil, fits, err.Error()
	case results == nil:
		return nil, e.reasons.intern(DynamicResources, true, "cannot allocate all claims"), ""
	}
	for i := range results {
		decision.Allocations[slices.Index(s.claims, s.open[i])] = &results[i]
	}
	return decision, fits, ""
}

// placeWithDevices tries the nodes that the other plugins leave over, the best first: looking for devices is the dearest question, so it is asked last.
func (e *Evaluator) placeWithDevices(v *View, r Request) Result {
	search, blocked := e.Devices.searchDevices(r.Pod)
	d := &Diagnosis{Nodes: e.State.NodeCount(), Rejected: PluginSet(0).With(DynamicResources)}
	if blocked != "" {
		d.Blocked = blocked
		return Result{Diagnosis: d}
	}
	candidates := slices.Clone(v.candidates())
	totals := slices.Clone(v.totals(candidates))
	order := make([]int, len(candidates))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(totals[b] - totals[a]) })
	refused := map[Reason]int{}
	for _, k := range order {
		n := e.State.Nodes[candidates[k]]
		if r.Pinned != "" && n.Name != r.Pinned {
			continue
		}
		decision, reason, blocked := search.on(e, n)
		if blocked != "" {
			d.Blocked = blocked
			return Result{Diagnosis: d}
		}
		if reason == fits {
			return Result{Node: n, Feasible: len(candidates), Devices: decision}
		}
		refused[reason]++
	}
	if r.Pinned != "" && len(refused) == 0 {
		return e.placePinned(v, r)
	}
	result := v.diagnose()
	for reason, count := range refused {
		result.Counts[reason] += count
	}
	result.Rejected = result.Rejected.With(DynamicResources)
	return Result{Diagnosis: result}
}
