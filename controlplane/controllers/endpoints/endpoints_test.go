// SPDX-License-Identifier: Apache-2.0

package endpoints_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/endpoints"
)

var (
	ctx = context.Background()
	web = map[string]string{"app": "web"}
)

func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: web, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP}},
	}}
	if change != nil {
		change(s)
	}
	return s
}

func pod(name, ip string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: web}, Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c"}}}}
	p = controllertest.Running(p, ip, time.Now())
	if change != nil {
		change(p)
	}
	return p
}

func unready(p *corev1.Pod) {
	controller.PodCondition(p, corev1.PodReady).Status = corev1.ConditionFalse
}

func named(port int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: port, Protocol: corev1.ProtocolTCP}}
	}
}

// text is an Endpoints' subsets in short: addresses, "!" addresses that are not ready, "@" hostnames, ":" ports.
func text(ep *corev1.Endpoints) string {
	var subsets []string
	for _, s := range ep.Subsets {
		var parts []string
		for _, a := range s.Addresses {
			if a.Hostname != "" {
				a.IP = a.Hostname + "@" + a.IP
			}
			parts = append(parts, a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			parts = append(parts, "!"+a.IP)
		}
		line := strings.Join(parts, " ")
		for _, p := range s.Ports {
			line += fmt.Sprintf(" :%s%d", p.Name, p.Port)
		}
		subsets = append(subsets, line)
	}
	return strings.Join(subsets, "; ")
}

func TestWhoIsListed(t *testing.T) {
	for _, test := range []struct {
		name    string
		service *corev1.Service
		pods    []runtime.Object
		want    string
	}{
		{"ready and unready pods", service(nil), []runtime.Object{pod("a", "10.0.0.2", nil), pod("b", "10.0.0.1", nil), pod("c", "10.0.0.3", unready)}, "10.0.0.1 10.0.0.2 !10.0.0.3 :8080"},
		{"unready ones too, when the Service says so", service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }),
			[]runtime.Object{pod("a", "10.0.0.2", unready)}, "10.0.0.2 :8080"},
		{"finished pods, pods being deleted and pods without an address are not listed", service(nil), []runtime.Object{
			pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
			pod("b", "10.0.0.2", func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) }),
			pod("c", "10.0.0.3", func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }),
			pod("d", "10.0.0.4", func(p *corev1.Pod) { p.Labels = nil })}, ""},
		{"a named port that pods give different numbers", service(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("http") }),
			[]runtime.Object{pod("a", "10.0.0.1", named(81)), pod("b", "10.0.0.2", named(82)), pod("c", "10.0.0.3", nil)}, "10.0.0.1 :81; 10.0.0.2 :82"},
		{"the first family of the Service", service(func(s *corev1.Service) {
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
		}),
			[]runtime.Object{pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::1"}) })}, "fd00::1 :8080"},
		{"a headless Service without ports, with hostnames", service(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = corev1.ClusterIPNone, nil }),
			[]runtime.Object{pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "one", "web" })}, "one@10.0.0.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := controllertest.NewWorld(t, append(test.pods, test.service), endpoints.New)
				defer w.Close()
				ep := controllertest.Must(w.Client.CoreV1().Endpoints("ns").Get(ctx, "web", metav1.GetOptions{}))
				if got := text(ep); got != test.want {
					t.Errorf("%q, want %q", got, test.want)
				}
				_, headless := ep.Labels[corev1.IsHeadlessService]
				if ep.Labels[endpoints.ManagedBy] != "endpoint-controller" || headless != (test.service.Spec.ClusterIP == corev1.ClusterIPNone) {
					t.Errorf("labels %v", ep.Labels)
				}
			})
		})
	}
}

func TestServicesOfOthersAreLeftAlone(t *testing.T) {
	for name, change := range map[string]func(*corev1.Service){
		"without a selector": func(s *corev1.Service) { s.Spec.Selector = nil },
		"an external name": func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mine := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.7"}}}}}
				w := controllertest.NewWorld(t, []runtime.Object{service(change), mine, pod("a", "10.0.0.1", nil)}, endpoints.New)
				defer w.Close()
				w.After(time.Minute)
				if got := text(controllertest.Must(w.Client.CoreV1().Endpoints("ns").Get(ctx, "web", metav1.GetOptions{}))); got != "192.0.2.7" {
					t.Errorf("%q, want what the user wrote", got)
				}
			})
		})
	}
}

// TestReadyPodsComeFirstWhenThereAreTooMany: Kubernetes lists at most 1000 addresses, and says that it cut.
func TestReadyPodsComeFirstWhenThereAreTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objs := []runtime.Object{service(nil)}
		for i := range 1010 {
			var change func(*corev1.Pod)
			if i < 15 {
				change = unready
			}
			objs = append(objs, pod(fmt.Sprintf("p%04d", i), fmt.Sprintf("10.0.%d.%d", i/200, i%200), change))
		}
		w := controllertest.NewWorld(t, objs, endpoints.New)
		defer w.Close()
		ep := controllertest.Must(w.Client.CoreV1().Endpoints("ns").Get(ctx, "web", metav1.GetOptions{}))
		if s := ep.Subsets; len(s) != 1 || len(s[0].Addresses) != 995 || len(s[0].NotReadyAddresses) != 5 || ep.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
			t.Fatalf("%d and %d addresses, annotations %v; want 995, 5 and truncated", len(s[0].Addresses), len(s[0].NotReadyAddresses), ep.Annotations)
		}
		for i := range 20 {
			w.Check(w.Client.CoreV1().Pods("ns").Delete(ctx, fmt.Sprintf("p%04d", i), metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
		}
		w.Wait()
		ep = controllertest.Must(w.Client.CoreV1().Endpoints("ns").Get(ctx, "web", metav1.GetOptions{}))
		if n := len(ep.Subsets[0].Addresses); n != 990 || ep.Annotations[corev1.EndpointsOverCapacity] != "" {
			t.Errorf("%d addresses, annotations %v; want 990 and no mark", n, ep.Annotations)
		}
	})
}

func TestABurstOfPodsIsOneWriteAndTheEndOfTheServiceIsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{service(nil)}, endpoints.New)
		defer w.Close()
		for i := range 30 {
			controllertest.Must(w.Client.CoreV1().Pods("ns").Create(ctx, pod(fmt.Sprint("p", i), fmt.Sprintf("10.0.0.%d", i+1), nil), metav1.CreateOptions{}))
		}
		w.Wait()
		if n := w.Writes("update endpoints"); n != 1 {
			t.Errorf("%d writes for 30 pods at once, want 1", n)
		}
		w.Check(w.Client.CoreV1().Endpoints("ns").Delete(ctx, "web", metav1.DeleteOptions{}))
		w.Wait()
		if n := len(controllertest.Must(w.Client.CoreV1().Endpoints("ns").Get(ctx, "web", metav1.GetOptions{})).Subsets[0].Addresses); n != 30 {
			t.Errorf("deleted by somebody, they came back with %d addresses, want 30", n)
		}
		w.Check(w.Client.CoreV1().Services("ns").Delete(ctx, "web", metav1.DeleteOptions{}))
		w.Wait()
		if _, err := w.Client.CoreV1().Endpoints("ns").Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the Service is gone, its Endpoints are not (%v)", err)
		}
	})
}
