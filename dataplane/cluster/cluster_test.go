// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/cilium/statedb"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/fairlead/fairlead/dataplane/tables"
)

func ptr[T any](v T) *T { return &v }

func TestWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: map[string]string{"service.fairlead.io/lb-algorithm": "maglev", "x": "y"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.7", "fd00::7"}, ExternalIPs: []string{"192.0.2.5", "nonsense"},
			Ports:           []corev1.ServicePort{{Name: "http", Protocol: "TCP", Port: 80, NodePort: 30080}, {Name: "bad", Port: 700000}},
			SessionAffinity: "ClientIP", ExternalTrafficPolicy: "Local", LoadBalancerSourceRanges: []string{"10.0.0.1/8", "fe80::/10"},
			InternalTrafficPolicy: ptr(corev1.ServiceInternalTrafficPolicyLocal),
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{
			{IP: "203.0.113.1", IPMode: ptr(corev1.LoadBalancerIPModeProxy)}, {IP: "203.0.113.2"}, {Hostname: "only.example"},
		}}},
	}
	client := fake.NewClientset(svc)
	tb, err := tables.New(Filler)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Config{Client: client, Tables: tb}) }()
	for _, table := range []interface {
		Initialized(txn statedb.ReadTxn) (bool, <-chan struct{})
	}{tb.Services, tb.EndpointSlices, tb.Nodes} {
		for {
			ok, ch := table.Initialized(tb.DB.ReadTxn())
			if ok {
				break
			}
			select {
			case <-ch:
			case <-time.After(10 * time.Second):
				t.Fatal("not initialized")
			}
		}
	}
	got, _, ok := tb.Services.Get(tb.DB.ReadTxn(), tables.ServiceByName.Query(tables.Name{Namespace: "default", Name: "web"}))
	ip := netip.MustParseAddr
	want := &tables.Service{
		Name: tables.Name{Namespace: "default", Name: "web"}, Type: tables.LoadBalancer,
		ClusterIPs: []netip.Addr{ip("10.96.0.7"), ip("fd00::7")}, ExternalIPs: []netip.Addr{ip("192.0.2.5")},
		Ingress:  []tables.IngressIP{{Addr: ip("203.0.113.1"), Proxy: true}, {Addr: ip("203.0.113.2")}},
		Ports:    []tables.ServicePort{{Name: "http", Protocol: tables.TCP, Port: 80, NodePort: 30080}, {Name: "bad", Protocol: tables.TCP}},
		Affinity: 3 * time.Hour, ExternalPolicy: tables.PolicyLocal, InternalPolicy: tables.PolicyLocal,
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")},
		Annotations:  map[string]string{"service.fairlead.io/lb-algorithm": "maglev"},
	}
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("service row:\n got %+v\nwant %+v", got, want)
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-x", Labels: map[string]string{"kubernetes.io/service-name": "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(int32(8080))}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.0.3", "10.244.0.4"}, NodeName: ptr("n1")},
			{Addresses: []string{"10.244.0.5"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(false), Serving: ptr(true), Terminating: ptr(true)}},
			{Addresses: []string{"10.244.0.6"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(false)}},
		},
	}
	if _, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	row := waitSlice(t, tb, true)
	conditions := []tables.Conditions{tables.Ready | tables.Serving, tables.Serving | tables.Terminating, 0}
	for i, c := range conditions {
		if row.Endpoints[i].Conditions != c {
			t.Errorf("endpoint %d: conditions %b, want %b", i, row.Endpoints[i].Conditions, c)
		}
	}
	if err := client.DiscoveryV1().EndpointSlices("default").Delete(ctx, "web-x", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitSlice(t, tb, false)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func waitSlice(t *testing.T, tb *tables.Tables, present bool) *tables.EndpointSlice {
	t.Helper()
	for {
		row, _, watch, ok := tb.EndpointSlices.GetWatch(tb.DB.ReadTxn(), tables.SliceByName.Query(tables.Name{Namespace: "default", Name: "web-x"}))
		if ok == present {
			return row
		}
		select {
		case <-watch:
		case <-time.After(10 * time.Second):
			t.Fatalf("slice present: %v, want %v", ok, present)
		}
	}
}

func TestRunRefusesTablesWithoutFiller(t *testing.T) {
	tb, err := tables.New()
	if err != nil {
		t.Fatal(err)
	}
	w := tb.DB.WriteTxn(tb.Services)
	defer w.Abort()
	if err := tb.Filled(w, "services", Filler); err == nil {
		t.Error("a filler that readers did not wait for was accepted")
	}
}
