// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/klog/v2"
	drahealth "k8s.io/kubelet/pkg/apis/dra-health/v1"
	drahealthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
)

const (
	healthTimeout = 30 * time.Second // how long a device's health holds when its driver does not say
	healthRetry   = 5 * time.Second
)

// wellness is what drivers say of their devices' health (KEP-4680). What a driver has not repeated in time is not known any more.
type wellness struct {
	mu      sync.Mutex
	devices map[deviceKey]deviceHealth
}

type deviceKey struct{ driver, pool, device string }

type deviceHealth struct {
	status  v1.ResourceHealthStatus
	message string
	until   time.Time
}

// of is the health of a device at now; Unknown when nobody has said it.
func (w *wellness) of(key deviceKey, now time.Time) (v1.ResourceHealthStatus, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h, ok := w.devices[key]; ok && now.Before(h.until) {
		return h.status, h.message
	}
	return v1.ResourceHealthStatusUnknown, ""
}

// learn takes in what a driver says, and returns until when at least all of it holds; zero when nothing has an end.
func (w *wellness) learn(driver string, said []*drahealth.DeviceHealth, now time.Time) (until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range said {
		timeout := healthTimeout
		if seconds := d.GetHealthCheckTimeoutSeconds(); seconds > 0 {
			timeout = time.Duration(min(seconds, int64(24*time.Hour/time.Second))) * time.Second
		}
		h := deviceHealth{status: v1.ResourceHealthStatusUnknown, message: shorten(d.GetMessage()), until: now.Add(timeout)}
		switch d.GetHealth() {
		case drahealth.HealthStatus_HEALTHY:
			h.status = v1.ResourceHealthStatusHealthy
		case drahealth.HealthStatus_UNHEALTHY:
			h.status = v1.ResourceHealthStatusUnhealthy
		}
		w.devices[deviceKey{driver, d.GetDevice().GetPoolName(), d.GetDevice().GetDeviceName()}] = h
	}
	for key, h := range w.devices {
		if key.driver != driver {
			continue
		}
		if !now.Before(h.until) {
			delete(w.devices, key)
		} else if until.IsZero() || h.until.Before(until) {
			until = h.until
		}
	}
	return until
}

// forget drops all of a driver.
func (w *wellness) forget(driver string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key := range w.devices {
		if key.driver == driver {
			delete(w.devices, key)
		}
	}
}

// shorten keeps a message within what the API takes.
func shorten(message string) string {
	message = strings.ToValidUTF8(message, "?")
	if len(message) <= v1.ResourceHealthMessageMaxLength {
		return message
	}
	return strings.ToValidUTF8(message[:v1.ResourceHealthMessageMaxLength-len("...")], "") + "..."
}

// healthClient is the driver's health service, nil when it has none.
func healthClient(one *driver, versions []string) drahealth.DRAResourceHealthClient {
	switch {
	case slices.Contains(versions, drahealth.DRAResourceHealthService):
		return drahealth.NewDRAResourceHealthClient(one.connection)
	case slices.Contains(versions, drahealthv1alpha1.DRAResourceHealthService):
		return drahealth.V1Alpha1ClientWrapper{Client: drahealthv1alpha1.NewDRAResourceHealthClient(one.connection)}
	}
	return nil
}

// watchHealth follows a driver's health stream until ctx ends, which is when the driver leaves.
func (m *Manager) watchHealth(ctx context.Context, name string, client drahealth.DRAResourceHealthClient) {
	defer func() {
		if !m.registered(name) { // else another of its name tells it now
			m.wellness.forget(name)
			m.tell(name)
		}
	}()
	for ctx.Err() == nil {
		err := m.followHealth(ctx, name, client)
		if ctx.Err() != nil {
			return
		}
		klog.FromContext(ctx).V(2).Info("The health of a driver's devices is not told any more; asking again", "driver", name, "err", err)
		select {
		case <-time.After(healthRetry):
		case <-ctx.Done():
		}
	}
}

func (m *Manager) followHealth(ctx context.Context, name string, client drahealth.DRAResourceHealthClient) error {
	stream, err := client.NodeWatchResources(ctx, &drahealth.NodeWatchResourcesRequest{})
	if err != nil {
		return err
	}
	stale := time.AfterFunc(healthTimeout, func() { m.tell(name) }) // what is not repeated is not known any more
	defer stale.Stop()
	for {
		said, err := stream.Recv()
		if err != nil {
			return err
		}
		now := time.Now()
		if until := m.wellness.learn(name, said.GetDevices(), now); !until.IsZero() {
			stale.Reset(until.Sub(now))
		}
		m.tell(name)
	}
}

// tell has the status of every pod written again that has devices of a driver.
func (m *Manager) tell(driver string) {
	m.mu.Lock()
	var pods []types.UID
	for _, h := range m.held {
		if _, has := h.Drivers[driver]; has {
			pods = append(pods, h.Pods...)
		}
	}
	m.mu.Unlock()
	for _, uid := range pods {
		m.changed(uid)
	}
}

// Health says of each claim that a container names how its devices are; nothing of claims that are not prepared.
func (m *Manager) Health(pod *v1.Pod, container *v1.Container) (out []v1.ResourceStatus) {
	add := func(name, claim, request string) {
		given, err := m.give(nil, pod, claim, request)
		if err != nil || len(given) == 0 {
			return
		}
		status := v1.ResourceStatus{Name: v1.ResourceName("claim:" + name)}
		if request != "" {
			status.Name = v1.ResourceName(fmt.Sprintf("claim:%s/%s", name, request))
		}
		for _, d := range given {
			one := v1.ResourceHealth{ResourceID: v1.ResourceID(d.Driver + "/" + d.Pool + "/" + d.Device.Device)}
			if len(d.CDI) > 0 {
				one.ResourceID = v1.ResourceID(d.CDI[0])
			}
			health, message := m.wellness.of(deviceKey{d.Driver, d.Pool, d.Device.Device}, time.Now())
			one.Health = health
			if message != "" {
				one.Message = &message
			}
			if !slices.ContainsFunc(status.Resources, func(other v1.ResourceHealth) bool { return other.ResourceID == one.ResourceID }) {
				status.Resources = append(status.Resources, one)
			}
		}
		out = append(out, status)
	}
	for _, want := range container.Resources.Claims {
		i := slices.IndexFunc(pod.Spec.ResourceClaims, func(c v1.PodResourceClaim) bool { return c.Name == want.Name })
		if i < 0 {
			continue
		}
		if name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err == nil && name != nil {
			add(want.Name, *name, want.Request)
		}
	}
	if extended := pod.Status.ExtendedResourceClaimStatus; extended != nil {
		for _, mapping := range extended.RequestMappings {
			if mapping.ContainerName == container.Name {
				add(extended.ResourceClaimName, extended.ResourceClaimName, mapping.RequestName)
			}
		}
	}
	return out
}
