// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

const (
	leaseSeconds  = 40
	leaseRenewal  = 10 * time.Second
	statusPeriod  = 10 * time.Second
	forcedReport  = 5 * time.Minute
	maxImages     = 50
	maxImageNames = 5
	retryPeriod   = time.Second
	hurryPeriod   = 250 * time.Millisecond // after a start, until the node is Ready
)

// Condition is one condition of the node, as its owner sees it now.
type Condition struct {
	Type            v1.NodeConditionType
	Status          v1.ConditionStatus
	Reason, Message string
}

// Options say what the Node object shall be.
type Options struct {
	Name             string
	IPs              []string
	Hostname         string
	Labels           map[string]string
	Taints           []v1.Taint
	Port             int32 // of the kubelet's server
	Version          string
	RuntimeVersion   func() string
	Machine          Machine
	Capacity         func() v1.ResourceList
	Reserved         []v1.ResourceList
	DeviceCapacity   func() (capacity, allocatable v1.ResourceList)
	Conditions       func(ctx context.Context) []Condition
	Images           func(ctx context.Context) []v1.ContainerImage
	VolumesInUse     func() []v1.UniqueVolumeName // may be nil
	GoingDown        func() bool                  // the machine shuts down: then the node is not ready, however short it has been up; may be nil
	Unschedulable    bool
	RuntimeHandlers  func() []v1.NodeRuntimeHandler
	UserNSSupported  bool
	SupplementalInfo map[string]string
}

// Keeper keeps the Node object.
type Keeper struct {
	client  kubernetes.Interface
	options Options
	wake    chan struct{}

	started time.Time

	mu          sync.Mutex
	current     *v1.Node
	reported    time.Time
	annotations map[string]string
}

// PressureAnnotation tells the scheduler the node's pressure stall information: "cpu=12,memory=0,io=3", each the share of the last minute in which
// some task waited, in percent.
const PressureAnnotation = "fairlead.io/pressure"

// Annotate keeps an annotation of the node at a value; it is written with the next status. An empty value leaves it as it is.
func (k *Keeper) Annotate(name, value string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.annotations == nil {
		k.annotations = map[string]string{}
	}
	k.annotations[name] = value
}

// annotate returns node with the annotations it shall have; the same node when it has them.
func (k *Keeper) annotate(node *v1.Node) *v1.Node {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := node
	for name, value := range k.annotations {
		if value == "" || node.Annotations[name] == value {
			continue
		}
		if out == node {
			out = node.DeepCopy()
			if out.Annotations == nil {
				out.Annotations = map[string]string{}
			}
		}
		out.Annotations[name] = value
	}
	return out
}

// settle is the time that a restarted agent gives runtime and network to answer again. Until then it does not take back that the node is Ready: its
// pods run on, and taking their endpoints out of every service would lose what the restart itself does not.
const settle = 15 * time.Second

// New returns a keeper that does nothing until Run.
func New(client kubernetes.Interface, options Options) *Keeper {
	return &Keeper{client: client, options: options, wake: make(chan struct{}, 1), started: time.Now()}
}

// Poke makes the keeper look at once.
func (k *Keeper) Poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Allocatable is what pods may ask for now.
func (k *Keeper) Allocatable() v1.ResourceList {
	out := Allocatable(k.options.Capacity(), k.options.Reserved...)
	if k.options.DeviceCapacity != nil {
		_, devices := k.options.DeviceCapacity()
		maps.Copy(out, devices)
	}
	return out
}

// Observe takes the node as a watch has it.
func (k *Keeper) Observe(node *v1.Node) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current = node
}

// Node is the object as last seen, nil before registration.
func (k *Keeper) Node() *v1.Node {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current
}

// Run registers the node, then keeps its status and lease until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	log := klog.FromContext(ctx)
	for {
		err := k.register(ctx)
		if err == nil {
			break
		}
		log.Info("Registration of the node failed, trying again", "node", k.options.Name, "err", err)
		select {
		case <-time.After(retryPeriod):
		case <-ctx.Done():
			return
		}
	}
	log.Info("Registered the node", "node", k.options.Name)
	var running sync.WaitGroup
	defer running.Wait()
	leases := lease.NewController(clock.RealClock{}, k.client, k.options.Name, leaseSeconds, nil, leaseRenewal, k.options.Name, v1.NamespaceNodeLease, k.owned)
	running.Go(func() { leases.Run(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-timer.C:
		}
		next := statusPeriod
		err := k.report(ctx)
		switch node := k.Node(); {
		case time.Since(k.started) < settle && (err != nil || node == nil || !ready(&node.Status)):
			next = hurryPeriod
		case err != nil:
			next = retryPeriod
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, errSettling) {
			log.Info("Status of the node was not written, trying again", "err", err)
		}
		timer.Reset(next)
	}
}

// owned ties the lease to the node object, so that it goes with it.
func (k *Keeper) owned(l *coordinationv1.Lease) error {
	node := k.Node()
	if node == nil || len(l.OwnerReferences) > 0 {
		return nil
	}
	l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	return nil
}

// Initial is the object a new node is registered with.
func (k *Keeper) Initial(ctx context.Context) *v1.Node {
	o := k.options
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: o.Name, Labels: k.labels()}, Spec: v1.NodeSpec{Taints: o.Taints, Unschedulable: o.Unschedulable}}
	k.fill(ctx, node)
	return node
}

func (k *Keeper) labels() map[string]string {
	out := map[string]string{
		v1.LabelHostname: k.options.Hostname, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	maps.Copy(out, k.options.Labels)
	return out
}

func (k *Keeper) register(ctx context.Context) error {
	created, err := k.client.CoreV1().Nodes().Create(ctx, k.Initial(ctx), metav1.CreateOptions{})
	if err == nil {
		k.Observe(created)
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("register node %s: %w", k.options.Name, err)
	}
	existing, err := k.client.CoreV1().Nodes().Get(ctx, k.options.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read node %s: %w", k.options.Name, err)
	}
	updated := existing.DeepCopy()
	if updated.Labels == nil {
		updated.Labels = map[string]string{}
	}
	maps.Copy(updated.Labels, k.labels())
	if !maps.Equal(existing.Labels, updated.Labels) {
		if existing, err = k.patch(ctx, existing, updated, ""); err != nil {
			return fmt.Errorf("labels of node %s: %w", k.options.Name, err)
		}
	}
	k.Observe(existing)
	return nil
}

// report writes the status when it changed, and every few minutes.
func (k *Keeper) report(ctx context.Context) error {
	old, err := k.client.CoreV1().Nodes().Get(ctx, k.options.Name, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return k.register(ctx) // somebody deleted the node while it lives
	}
	if err != nil {
		return err
	}
	if annotated := k.annotate(old); annotated != old {
		if old, err = k.patch(ctx, old, annotated, ""); err != nil {
			return fmt.Errorf("annotations of node %s: %w", k.options.Name, err)
		}
	}
	updated := old.DeepCopy()
	k.fill(ctx, updated)
	k.mu.Lock()
	first := k.reported.IsZero()
	k.mu.Unlock()
	if !first { // what is there at the start may be a device plugin's of an earlier run, which did not come back
		keepForeign(updated.Status.Capacity, old.Status.Capacity)
		keepForeign(updated.Status.Allocatable, old.Status.Allocatable)
	}
	goingDown := k.options.GoingDown != nil && k.options.GoingDown()
	if ready(&old.Status) && !ready(&updated.Status) && time.Since(k.started) < settle && !goingDown {
		return errSettling
	}
	k.mu.Lock()
	due := time.Since(k.reported) >= forcedReport
	k.mu.Unlock()
	if !due && sameStatus(&old.Status, &updated.Status) {
		return nil
	}
	written, err := k.patch(ctx, old, updated, "status")
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.current, k.reported = written, time.Now()
	k.mu.Unlock()
	return nil
}

// keepForeign leaves resources in a list that somebody else put there: extended ones, which have a domain of their own, that no device plugin of this node has.
func keepForeign(list, old v1.ResourceList) {
	for name, quantity := range old {
		domain, _, extended := strings.Cut(string(name), "/")
		if _, own := list[name]; extended && !own && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") {
			list[name] = quantity
		}
	}
}

// errSettling says that the status is not written yet, see settle.
var errSettling = errors.New("runtime and network are still starting")

func ready(status *v1.NodeStatus) bool {
	return slices.ContainsFunc(status.Conditions, func(c v1.NodeCondition) bool { return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue })
}

// sameStatus compares without heartbeat times.
func sameStatus(a, b *v1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, status := range []*v1.NodeStatus{x, y} {
		for i := range status.Conditions {
			status.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(x, y)
}

func (k *Keeper) patch(ctx context.Context, old, updated *v1.Node, subresource string) (*v1.Node, error) {
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(updated)
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Node{})
	if err != nil {
		return nil, err
	}
	var subresources []string
	if subresource != "" {
		subresources = append(subresources, subresource)
	}
	return k.client.CoreV1().Nodes().Patch(ctx, k.options.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, subresources...)
}

// fill sets everything in the status that is the kubelet's.
func (k *Keeper) fill(ctx context.Context, node *v1.Node) {
	o, s := k.options, &node.Status
	s.Capacity = o.Capacity()
	s.Allocatable = Allocatable(s.Capacity, o.Reserved...)
	if o.DeviceCapacity != nil {
		capacity, allocatable := o.DeviceCapacity()
		maps.Copy(s.Capacity, capacity)
		maps.Copy(s.Allocatable, allocatable)
	}
	s.Addresses = nil
	for _, ip := range o.IPs {
		s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: o.Hostname})
	s.DaemonEndpoints.KubeletEndpoint.Port = o.Port
	m := o.Machine
	s.NodeInfo = v1.NodeSystemInfo{
		MachineID: m.MachineID, SystemUUID: m.SystemUUID, BootID: m.BootID, KernelVersion: m.Kernel, OSImage: m.OSImage,
		ContainerRuntimeVersion: o.RuntimeVersion(), KubeletVersion: o.Version, OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
	if m.SwapBytes > 0 {
		s.NodeInfo.Swap = &v1.NodeSwapStatus{Capacity: &m.SwapBytes}
	}
	policy := true
	s.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: &policy}
	if o.RuntimeHandlers != nil {
		s.RuntimeHandlers = o.RuntimeHandlers()
	}
	if o.Images != nil {
		s.Images = o.Images(ctx)
	}
	if o.VolumesInUse != nil {
		s.VolumesInUse = o.VolumesInUse()
	}
	now := metav1.Now()
	for _, c := range o.Conditions(ctx) {
		setCondition(s, c, now)
	}
}

func setCondition(s *v1.NodeStatus, c Condition, now metav1.Time) {
	for i := range s.Conditions {
		if old := &s.Conditions[i]; old.Type == c.Type {
			if old.Status != c.Status {
				old.LastTransitionTime = now
			}
			old.Status, old.Reason, old.Message, old.LastHeartbeatTime = c.Status, c.Reason, c.Message, now
			return
		}
	}
	s.Conditions = append(s.Conditions, v1.NodeCondition{
		Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message, LastHeartbeatTime: now, LastTransitionTime: now,
	})
}
