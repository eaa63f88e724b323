// SPDX-License-Identifier: Apache-2.0

// Package claims prepares the resource claims of this node's pods (dynamic resource allocation): for each claim that the scheduler gave a pod, the
// drivers whose devices are in it are told before the pod's first container, and told again when no pod of the node has the claim any more.
//
//	plugins.Watcher ──▶ drivers
//	pod, ResourceClaim ──▶ Prepare ──▶ NodePrepareResources ──▶ CDI ids ──▶ Container ──▶ CRI
//	last pod gone ──▶ Release ──▶ NodeUnprepareResources
//
// Who has which claim is in a file, written before a driver is called: after a crash at any point every claim is still unprepared. What a driver said
// is in it too, but a driver is asked again by an agent that starts: what it made (CDI files below /run) may be gone with a reboot.
package claims

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	draapi "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/plugins"
)

const (
	callTimeout = 45 * time.Second
	startGrace  = 10 * time.Second // a driver that was there before has this long to come back after the agent's start
	startPoll   = 50 * time.Millisecond
)

// Manager keeps the claims. It handles plugins of kind DRAPlugin. Safe for concurrent use.
type Manager struct {
	client    kubernetes.Interface
	file      string
	changed   func(types.UID)
	started   time.Time
	drivers   plugins.Group[*driver]
	published *publications
	wellness  wellness
	watching  sync.WaitGroup

	working sync.Mutex // one claim is prepared or unprepared at a time

	mu   sync.Mutex
	held map[types.UID]*held // by the claim's UID
}

type driver struct {
	name       string
	connection *grpc.ClientConn
	client     draapi.DRAPluginClient
	leave      context.CancelFunc // ends the watch of its devices' health
}

func (d *driver) close() {
	d.leave()
	d.connection.Close()
}

// held is a claim that pods of this node have.
type held struct {
	Namespace string              `json:"namespace"`
	Name      string              `json:"name"`
	Pods      []types.UID         `json:"pods"`
	Drivers   map[string][]Device `json:"drivers"` // devices by driver; nil until it has answered

	asked map[string]bool // drivers that were asked in this agent's life
}

// Device is one device that a driver prepared.
type Device struct {
	Requests []string `json:"requests,omitempty"` // of the claim; none means all
	Pool     string   `json:"pool"`
	Device   string   `json:"device"`
	CDI      []string `json:"cdi,omitempty"`
}

// New reads what agents before this one knew. changed is told of each pod whose devices' health changed. With an error the manager works, but does not
// know of claims that were prepared.
func New(client kubernetes.Interface, nodeName, file string, changed func(types.UID)) (*Manager, error) {
	known, err := readCheckpoint(file)
	m := &Manager{client: client, file: file, changed: changed, started: time.Now(), held: known, wellness: wellness{devices: map[deviceKey]deviceHealth{}}}
	m.published = newPublications(client, nodeName, m.registered)
	return m, err
}

func (m *Manager) registered(driver string) bool {
	_, there := m.drivers.Get(driver)
	return there
}

// Run takes away what drivers published that are gone, until ctx ends.
func (m *Manager) Run(ctx context.Context) { m.published.run(ctx) }

// Register implements plugins.Handler.
func (m *Manager) Register(ctx context.Context, p plugins.Plugin) error {
	if !slices.Contains(p.Versions, draapi.DRAPluginService) {
		return fmt.Errorf("resource driver %s: none of its services %v is %s", p.Name, p.Versions, draapi.DRAPluginService)
	}
	connection, err := plugins.Dial(p.Endpoint)
	if err != nil {
		return err
	}
	one := &driver{name: p.Name, connection: connection, client: draapi.NewDRAPluginClient(connection)}
	ctx, one.leave = context.WithCancel(ctx)
	m.drivers.Put(p, one)
	if client := healthClient(one, p.Versions); client != nil {
		m.watching.Go(func() { m.watchHealth(ctx, p.Name, client) })
	}
	return nil
}

// Deregister implements plugins.Handler.
func (m *Manager) Deregister(p plugins.Plugin) {
	one, found, left := m.drivers.Take(p)
	if !found {
		return
	}
	one.close()
	if !left {
		m.published.gone(p.Name)
	}
}

// Close ends the connections to drivers.
func (m *Manager) Close() {
	for _, one := range m.drivers.All() {
		one.close()
	}
	m.watching.Wait()
}

// Prepare has the drivers of the pod's claims prepare them. It may be called again: what this agent has prepared it does not ask for twice.
func (m *Manager) Prepare(ctx context.Context, pod *v1.Pod) error {
	names, err := claimNames(pod)
	if err != nil || len(names) == 0 {
		return err
	}
	m.working.Lock()
	defer m.working.Unlock()
	for _, name := range names {
		claim, err := m.client.ResourceV1().ResourceClaims(pod.Namespace).Get(ctx, name.claim, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("resource claim %s: %w", name.claim, err)
		}
		if name.owned {
			if err := resourceclaim.IsForPod(pod, claim, true); err != nil {
				return err
			}
		}
		if claim.Status.Allocation == nil {
			return fmt.Errorf("resource claim %s has no devices allocated", name.claim)
		}
		if !resourceclaim.IsReservedForPod(pod, claim, true) {
			return fmt.Errorf("resource claim %s is not reserved for pod %s", name.claim, pod.Name)
		}
		if err := m.prepare(ctx, pod.UID, claim); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) prepare(ctx context.Context, pod types.UID, claim *resourcev1.ResourceClaim) error {
	m.mu.Lock()
	h := m.held[claim.UID]
	if h == nil {
		h = &held{Namespace: claim.Namespace, Name: claim.Name, Drivers: map[string][]Device{}}
		m.held[claim.UID] = h
	}
	if !slices.Contains(h.Pods, pod) {
		h.Pods = append(h.Pods, pod)
	}
	var ask []string
	for _, result := range claim.Status.Allocation.Devices.Results {
		if _, known := h.Drivers[result.Driver]; !known {
			h.Drivers[result.Driver] = nil
		}
		if !h.asked[result.Driver] && !slices.Contains(ask, result.Driver) {
			ask = append(ask, result.Driver)
		}
	}
	m.mu.Unlock()
	if err := m.checkpoint(); err != nil { // before the first driver does anything
		return err
	}
	for _, name := range ask {
		one, err := m.driver(ctx, name)
		if err != nil {
			return err
		}
		calling, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := one.client.NodePrepareResources(calling, &draapi.NodePrepareResourcesRequest{Claims: []*draapi.Claim{wire(claim.UID, h)}})
		cancel()
		devices, err := prepared(answer, string(claim.UID), err)
		if err != nil {
			return fmt.Errorf("resource driver %s: prepare claim %s: %w", name, claim.Name, err)
		}
		m.mu.Lock()
		h.Drivers[name] = devices
		if h.asked == nil {
			h.asked = map[string]bool{}
		}
		h.asked[name] = true
		m.mu.Unlock()
	}
	if len(ask) == 0 {
		return nil
	}
	return m.checkpoint()
}

func wire(uid types.UID, h *held) *draapi.Claim {
	return &draapi.Claim{Namespace: h.Namespace, Name: h.Name, Uid: string(uid)}
}

// prepared takes a driver's answer apart.
func prepared(answer *draapi.NodePrepareResourcesResponse, claim string, err error) ([]Device, error) {
	if err != nil {
		return nil, err
	}
	one := answer.GetClaims()[claim]
	switch {
	case one == nil:
		return nil, errors.New("its answer leaves the claim out")
	case one.Error != "":
		return nil, errors.New(one.Error)
	}
	out := []Device{}
	for _, d := range one.Devices {
		out = append(out, Device{Requests: d.RequestNames, Pool: d.PoolName, Device: d.DeviceName, CDI: d.CdiDeviceIds})
	}
	return out, nil
}

// driver returns a driver that is registered, or will be soon after the agent's start.
func (m *Manager) driver(ctx context.Context, name string) (*driver, error) {
	for {
		if one, ok := m.drivers.Get(name); ok {
			return one, nil
		}
		if time.Since(m.started) > startGrace {
			return nil, fmt.Errorf("resource driver %s is not registered on this node: is it running?", name)
		}
		select {
		case <-time.After(startPoll):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Release gives back what a pod has: a claim that no other pod here has is unprepared. An error means that it must be called again. A pod without claims has
// nothing to give back.
func (m *Manager) Release(ctx context.Context, pod types.UID) error {
	if !slices.Contains(m.Pods(), pod) {
		return nil // and does not wait for a driver that works for another
	}
	m.working.Lock()
	defer m.working.Unlock()
	m.mu.Lock()
	var last []types.UID
	changed := false
	for uid, h := range m.held {
		if !slices.Contains(h.Pods, pod) {
			continue
		}
		if len(h.Pods) == 1 {
			last = append(last, uid)
			continue
		}
		h.Pods = slices.DeleteFunc(h.Pods, func(other types.UID) bool { return other == pod })
		changed = true
	}
	m.mu.Unlock()
	var problems []error
	for _, uid := range last {
		if err := m.unprepare(ctx, uid); err != nil {
			problems = append(problems, err)
			continue
		}
		changed = true
	}
	if changed {
		problems = append(problems, m.checkpoint())
	}
	return errors.Join(problems...)
}

func (m *Manager) unprepare(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	h := m.held[uid]
	names := sortedKeys(h.Drivers)
	m.mu.Unlock()
	for _, name := range names {
		one, err := m.driver(ctx, name)
		if err == nil {
			calling, cancel := context.WithTimeout(ctx, callTimeout)
			var answer *draapi.NodeUnprepareResourcesResponse
			answer, err = one.client.NodeUnprepareResources(calling, &draapi.NodeUnprepareResourcesRequest{Claims: []*draapi.Claim{wire(uid, h)}})
			cancel()
			if result, there := answer.GetClaims()[string(uid)]; err == nil && !there {
				err = errors.New("its answer leaves the claim out")
			} else if text := result.GetError(); err == nil && text != "" {
				err = errors.New(text)
			}
		}
		if err != nil {
			return fmt.Errorf("resource driver %s: take claim %s back: %w", name, h.Name, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, uid)
	return nil
}

// Pods are those that have claims, also ones of which nothing else is left.
func (m *Manager) Pods() (out []types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.held {
		for _, uid := range h.Pods {
			if !slices.Contains(out, uid) {
				out = append(out, uid)
			}
		}
	}
	return out
}

// Given is what a container gets of one claim.
type Given struct {
	Namespace, Claim, Driver string
	Device
}

// Container is what a container's claims give it, in a fixed order. It fails for a claim that was not prepared.
func (m *Manager) Container(pod *v1.Pod, container *v1.Container) (out []Given, err error) {
	for _, want := range container.Resources.Claims {
		i := slices.IndexFunc(pod.Spec.ResourceClaims, func(c v1.PodResourceClaim) bool { return c.Name == want.Name })
		if i < 0 {
			return nil, fmt.Errorf("container %s: the pod has no resource claim %q", container.Name, want.Name)
		}
		name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name == nil {
			continue // its template makes no claim for this pod
		}
		if out, err = m.give(out, pod, *name, want.Request); err != nil {
			return nil, err
		}
	}
	if extended := pod.Status.ExtendedResourceClaimStatus; extended != nil {
		for _, mapping := range extended.RequestMappings {
			if mapping.ContainerName != container.Name {
				continue
			}
			if out, err = m.give(out, pod, extended.ResourceClaimName, mapping.RequestName); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// give appends the devices of a claim that are for a request; an empty request means all.
func (m *Manager) give(out []Given, pod *v1.Pod, claim, request string) ([]Given, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.held {
		if h.Name != claim || h.Namespace != pod.Namespace || !slices.Contains(h.Pods, pod.UID) {
			continue
		}
		for _, name := range sortedKeys(h.Drivers) {
			if h.Drivers[name] == nil {
				return nil, fmt.Errorf("resource claim %s is not prepared by driver %s", claim, name)
			}
			for _, d := range h.Drivers[name] {
				if request == "" || len(d.Requests) == 0 || slices.ContainsFunc(d.Requests, func(r string) bool { return r == request || resourceclaim.BaseRequestRef(r) == request }) {
					out = append(out, Given{h.Namespace, h.Name, name, d})
				}
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("resource claim %s is not prepared", claim)
}

type claimName struct {
	claim string
	owned bool // it was made for the pod, and must be its
}

// claimNames are the pod's claims; it fails when one that its template asks for was not made yet.
func claimNames(pod *v1.Pod) (out []claimName, err error) {
	for i := range pod.Spec.ResourceClaims {
		name, owned, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name != nil {
			out = append(out, claimName{*name, owned})
		}
	}
	if extended := pod.Status.ExtendedResourceClaimStatus; extended != nil {
		out = append(out, claimName{extended.ResourceClaimName, true})
	}
	slices.SortFunc(out, func(a, b claimName) int { return strings.Compare(a.claim, b.claim) })
	return out, nil
}
