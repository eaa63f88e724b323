// SPDX-License-Identifier: Apache-2.0

package endpointslicemirroring_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/endpointslicemirroring"
)

var ctx = context.Background()

func service(selector map[string]string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db"}, Spec: corev1.ServiceSpec{Selector: selector}}
}

func written(change func(*corev1.Endpoints), addresses ...string) *corev1.Endpoints {
	ep := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db", Labels: map[string]string{"mine": "yes"}}}
	s := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP}}}
	for _, a := range addresses {
		if ip, unready := strings.CutPrefix(a, "!"); unready {
			s.NotReadyAddresses = append(s.NotReadyAddresses, corev1.EndpointAddress{IP: ip})
		} else {
			s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: a})
		}
	}
	ep.Subsets = []corev1.EndpointSubset{s}
	if change != nil {
		change(ep)
	}
	return ep
}

// mirrored is what the slices of the Service say: addresses, "!" before those that are not ready, sorted.
func mirrored(w *controllertest.World) (text string, all []discoveryv1.EndpointSlice) {
	all = controllertest.Must(w.Client.DiscoveryV1().EndpointSlices("ns").List(ctx, metav1.ListOptions{})).Items
	var out []string
	for _, s := range all {
		for _, e := range s.Endpoints {
			mark := ""
			if !*e.Conditions.Ready {
				mark = "!"
			}
			out = append(out, mark+e.Addresses[0])
		}
	}
	slices.Sort(out)
	return strings.Join(out, " "), all
}

func TestWhatIsMirrored(t *testing.T) {
	for _, test := range []struct {
		name    string
		service *corev1.Service
		written *corev1.Endpoints
		want    string
		slices  int
	}{
		{"both families, ready and not", service(nil), written(nil, "192.0.2.1", "2001:db8::1", "!192.0.2.2"), "!192.0.2.2 192.0.2.1 2001:db8::1", 2},
		{"nothing of a Service with a selector: its slices are another's", service(map[string]string{"a": "b"}), written(nil, "192.0.2.1"), "", 0},
		{"nothing without a Service", nil, written(nil, "192.0.2.1"), "", 0},
		{"nothing when the label says not to", service(nil), written(func(e *corev1.Endpoints) { e.Labels[discoveryv1.LabelSkipMirror] = "true" }, "192.0.2.1"), "", 0},
		{"nothing of an old leader election", service(nil), written(func(e *corev1.Endpoints) {
			e.Annotations = map[string]string{"control-plane.alpha.kubernetes.io/leader": "{}"}
		}, "192.0.2.1"), "", 0},
		{"two subsets, two slices", service(nil), written(func(e *corev1.Endpoints) {
			e.Subsets = append(e.Subsets, corev1.EndpointSubset{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.9"}}, Ports: []corev1.EndpointPort{{Port: 1}}})
		}, "192.0.2.1"), "192.0.2.1 192.0.2.9", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				objs := []runtime.Object{test.written}
				if test.service != nil {
					objs = append(objs, test.service)
				}
				w := controllertest.NewWorld(t, objs, endpointslicemirroring.New)
				defer w.Close()
				got, all := mirrored(w)
				if got != test.want || len(all) != test.slices {
					t.Errorf("%q in %d slices, want %q in %d", got, len(all), test.want, test.slices)
				}
				for _, s := range all {
					if s.Labels["mine"] != "yes" || s.Labels[discoveryv1.LabelServiceName] != "db" || s.Labels[discoveryv1.LabelManagedBy] != "endpointslicemirroring-controller.k8s.io" {
						t.Errorf("labels %v", s.Labels)
					}
				}
			})
		})
	}
}

func TestChangesAreFollowedAndTheEndIsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{service(nil), written(nil, "192.0.2.1", "192.0.2.2")}, endpointslicemirroring.New)
		defer w.Close()
		ep := controllertest.Must(w.Client.CoreV1().Endpoints("ns").Get(ctx, "db", metav1.GetOptions{}))
		ep.Subsets = written(nil, "192.0.2.2", "192.0.2.3").Subsets
		controllertest.Must(w.Client.CoreV1().Endpoints("ns").Update(ctx, ep, metav1.UpdateOptions{}))
		w.Wait()
		if got, all := mirrored(w); got != "192.0.2.2 192.0.2.3" || len(all) != 1 {
			t.Errorf("%q in %d slices after the change", got, len(all))
		}
		if n := w.Writes("create endpointslices"); n != 1 {
			t.Errorf("%d slices were made for one change of addresses, want the first one to be kept", n)
		}
		_, all := mirrored(w)
		all[0].Endpoints = nil
		controllertest.Must(w.Client.DiscoveryV1().EndpointSlices("ns").Update(ctx, &all[0], metav1.UpdateOptions{}))
		w.After(time.Second)
		if got, _ := mirrored(w); got != "192.0.2.2 192.0.2.3" {
			t.Errorf("%q after somebody emptied the slice", got)
		}
		s := controllertest.Must(w.Client.CoreV1().Services("ns").Get(ctx, "db", metav1.GetOptions{}))
		s.Spec.Selector = map[string]string{"a": "b"}
		controllertest.Must(w.Client.CoreV1().Services("ns").Update(ctx, s, metav1.UpdateOptions{}))
		w.After(time.Second)
		if got, all := mirrored(w); len(all) != 0 {
			t.Errorf("%q is still mirrored after the Service got a selector", got)
		}
	})
}

// TestThousandsOfAddresses: a hundred in a slice, and at most a thousand of a subset, ready ones first.
func TestThousandsOfAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var addresses []string
		for i := range 1200 {
			mark := ""
			if i%2 == 1 {
				mark = "!"
			}
			addresses = append(addresses, fmt.Sprintf("%s198.51.%d.%d", mark, i/250, i%250))
		}
		w := controllertest.NewWorld(t, []runtime.Object{service(nil), written(nil, addresses...)}, endpointslicemirroring.New)
		defer w.Close()
		got, all := mirrored(w)
		ready, unready := 0, 0
		for _, a := range strings.Fields(got) {
			if strings.HasPrefix(a, "!") {
				unready++
			} else {
				ready++
			}
		}
		if len(all) != 10 || ready != 600 || unready != 400 {
			t.Errorf("%d slices, %d ready, %d unready addresses; want 10, 600, 400", len(all), ready, unready)
		}
	})
}
