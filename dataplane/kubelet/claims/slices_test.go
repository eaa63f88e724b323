// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	drahealth "k8s.io/kubelet/pkg/apis/dra-health/v1"
	"k8s.io/utils/ptr"
)

// TestSlicesGoWithTheirDriver: what a driver published goes half a minute after it, not when it comes back in time, and is asked for again when that fails.
func TestSlicesGoWithTheirDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "old"}, Spec: resourcev1.ResourceSliceSpec{Driver: "old", NodeName: ptr.To("n")}},
			&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "back"}, Spec: resourcev1.ResourceSliceSpec{Driver: "back", NodeName: ptr.To("n")}})
		begin, failing, removed := time.Now(), true, []string{}
		client.PrependReactor("delete-collection", "resourceslices", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if failing {
				failing = false
				return true, nil, errors.New("not now")
			}
			removed = append(removed, a.(clienttesting.DeleteCollectionAction).GetListRestrictions().Fields.String()+" after "+time.Since(begin).String())
			return true, nil, nil
		})
		here := map[string]bool{"back": true}
		p := newPublications(client, "n", func(driver string) bool { return here[driver] })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.run(ctx) }()
		advance := func(d time.Duration, want ...string) {
			t.Helper()
			time.Sleep(d) // virtual
			synctest.Wait()
			for i := range want {
				driver, after, _ := strings.Cut(want[i], " ")
				want[i] = "spec.driver=" + driver + ",spec.nodeName=n after " + after
			}
			if !slices.Equal(removed, want) {
				t.Errorf("after %v: removed %q, want %q", time.Since(begin), removed, want)
			}
			removed = nil
		}
		advance(29 * time.Second)
		advance(12*time.Second, "old 40s") // the first try failed
		delete(here, "back")
		p.gone("back")
		advance(20 * time.Second)
		here["back"] = true // updated
		advance(20 * time.Second)
		delete(here, "back")
		p.gone("back") // at 1m21s
		advance(10 * time.Second)
		p.gone("back") // it was back for less than a moment
		advance(29 * time.Second)
		advance(2*time.Second, "back 2m1s")
		advance(time.Hour)
		cancel()
		<-done
	})
}

func TestHealthOfDevices(t *testing.T) {
	w := wellness{devices: map[deviceKey]deviceHealth{}}
	now := time.Now()
	device := func(name string, health drahealth.HealthStatus, seconds int64, message string) *drahealth.DeviceHealth {
		return &drahealth.DeviceHealth{Device: &drahealth.DeviceIdentifier{PoolName: "p", DeviceName: name}, Health: health, HealthCheckTimeoutSeconds: seconds, Message: message}
	}
	check := func(after time.Duration, name string, want v1.ResourceHealthStatus, message string) {
		t.Helper()
		if got, said := w.of(deviceKey{"d", "p", name}, now.Add(after)); got != want || said != message {
			t.Errorf("%s after %v: %s %q, want %s %q", name, after, got, said, want, message)
		}
	}
	long := strings.Repeat("é", 600)
	until := w.learn("d", []*drahealth.DeviceHealth{device("a", drahealth.HealthStatus_HEALTHY, 0, ""), device("b", drahealth.HealthStatus_UNHEALTHY, 5, "hot"),
		device("c", drahealth.HealthStatus_UNHEALTHY, -1, long), nil}, now)
	if got := until.Sub(now); got != 5*time.Second {
		t.Errorf("all of it holds for %v, want 5s", got)
	}
	check(0, "a", v1.ResourceHealthStatusHealthy, "")
	check(29*time.Second, "a", v1.ResourceHealthStatusHealthy, "")
	check(30*time.Second, "a", v1.ResourceHealthStatusUnknown, "")
	check(4*time.Second, "b", v1.ResourceHealthStatusUnhealthy, "hot")
	check(5*time.Second, "b", v1.ResourceHealthStatusUnknown, "")
	check(0, "c", v1.ResourceHealthStatusUnhealthy, long[:1020]+"...")
	check(0, "never-told", v1.ResourceHealthStatusUnknown, "")
	if until := w.learn("d", nil, now.Add(10*time.Second)); until.Sub(now) != 30*time.Second {
		t.Errorf("what is left holds for %v, want 30s", until.Sub(now))
	}
	w.forget("d")
	check(0, "a", v1.ResourceHealthStatusUnknown, "")
}
