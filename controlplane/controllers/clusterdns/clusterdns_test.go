// SPDX-License-Identifier: Apache-2.0

package clusterdns

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/clock"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

func node(name string, ready corev1.ConditionStatus, ips ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	for _, ip := range ips {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	return n
}

// sync runs one sync with caches that hold what the fake API holds.
func sync(t *testing.T, client *fake.Clientset) {
	t.Helper()
	ctx := context.Background()
	c := &controller.Context{Client: client, Clock: clock.RealClock{}, Informers: informers.NewSharedInformerFactory(client, 0)}
	c.Settings.ClusterDNS, c.Settings.DNSPort = []string{"10.96.0.10"}, 10053
	d := New(c).(*Controller)
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range nodes.Items {
		c.Informers.Core().V1().Nodes().Informer().GetIndexer().Add(&nodes.Items[i])
	}
	services, err := client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range services.Items {
		c.Informers.Core().V1().Services().Informer().GetIndexer().Add(&services.Items[i])
	}
	list, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		c.Informers.Discovery().V1().EndpointSlices().Informer().GetIndexer().Add(&list.Items[i])
	}
	if err := d.sync(ctx, everything); err != nil {
		t.Fatal(err)
	}
}

func endpointsOf(t *testing.T, client *fake.Clientset) map[string]discoveryv1.Endpoint {
	t.Helper()
	list, err := client.DiscoveryV1().EndpointSlices(namespace).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]discoveryv1.Endpoint{}
	for _, s := range list.Items {
		for _, ep := range s.Endpoints {
			out[*ep.NodeName] = ep
		}
	}
	return out
}

func TestServiceAndEndpointsFollowTheNodes(t *testing.T) {
	client := fake.NewClientset(node("a", corev1.ConditionTrue, "10.0.0.1"), node("b", corev1.ConditionFalse, "10.0.0.2"))
	// The fake API server allocates nothing: give the Service its families as the real one does.
	svc := (&Controller{ctx: &controller.Context{Settings: controller.Settings{ClusterDNS: []string{"10.96.0.10"}, DNSPort: 10053}}}).service()
	svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	client.Tracker().Add(svc)
	sync(t, client)
	eps := endpointsOf(t, client)
	if len(eps) != 2 || !*eps["a"].Conditions.Ready || *eps["b"].Conditions.Ready || eps["a"].Hints.ForNodes[0].Name != "a" {
		t.Errorf("endpoints %v, want a ready and b not, each hinted to its node", eps)
	}

	client.CoreV1().Nodes().Update(context.Background(), node("b", corev1.ConditionTrue, "10.0.0.2"), metav1.UpdateOptions{})
	client.CoreV1().Nodes().Delete(context.Background(), "a", metav1.DeleteOptions{})
	sync(t, client)
	eps = endpointsOf(t, client)
	if _, there := eps["a"]; there || len(eps) != 1 || !*eps["b"].Conditions.Ready {
		t.Errorf("endpoints %v, want only b, ready", eps)
	}

	client.ClearActions()
	sync(t, client)
	for _, a := range client.Actions() {
		if a.GetVerb() != "list" {
			t.Errorf("a sync with nothing to do wrote: %s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

func TestNodeWithoutDNSServerIsNotReady(t *testing.T) {
	down := node("a", corev1.ConditionTrue, "10.0.0.1")
	down.Annotations = map[string]string{"fairlead.io/dns": "down"}
	up := node("b", corev1.ConditionTrue, "10.0.0.2")
	if *facts(down).endpoint(facts(down).addrs[0]).Conditions.Ready || !*facts(up).endpoint(facts(up).addrs[0]).Conditions.Ready {
		t.Error("want the endpoint of the node whose DNS server is down not ready, the other's ready")
	}
	if facts(down).equal(facts(node("a", corev1.ConditionTrue, "10.0.0.1"))) {
		t.Error("the annotation's coming and going would not be noticed")
	}
}

func TestServiceIsMadeWhenAbsent(t *testing.T) {
	client := fake.NewClientset()
	sync(t, client)
	svc, err := client.CoreV1().Services(namespace).Get(context.Background(), serviceName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if svc.Spec.ClusterIP != "10.96.0.10" || len(svc.Spec.Ports) != 3 || svc.Spec.Ports[0].TargetPort.IntVal != 10053 || svc.Spec.Ports[2].Name != "metrics" || svc.Spec.Ports[2].Port != 9153 {
		t.Errorf("service %+v", svc.Spec)
	}
}

// TestServiceOfAnEarlierVersionGainsItsPorts has a Service that was made before there was a port for metrics.
func TestServiceOfAnEarlierVersionGainsItsPorts(t *testing.T) {
	old := (&Controller{ctx: &controller.Context{Settings: controller.Settings{ClusterDNS: []string{"10.96.0.10"}, DNSPort: 10053}}}).service()
	old.Spec.Ports, old.Annotations, old.Spec.IPFamilies = old.Spec.Ports[:2], nil, []corev1.IPFamily{corev1.IPv4Protocol}
	client := fake.NewClientset(old, node("a", corev1.ConditionTrue, "10.0.0.1"))
	get := func() *corev1.Service {
		t.Helper()
		svc, err := client.CoreV1().Services(namespace).Get(context.Background(), serviceName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return svc
	}
	sync(t, client)
	svc := get()
	if len(svc.Spec.Ports) != 3 || svc.Spec.Ports[2].Port != 9153 || svc.Annotations["prometheus.io/port"] != "9153" {
		t.Errorf("ports %v, annotations %v: want the metrics' added", svc.Spec.Ports, svc.Annotations)
	}
	slices, err := client.DiscoveryV1().EndpointSlices(namespace).List(context.Background(), metav1.ListOptions{})
	if err != nil || len(slices.Items) != 1 || len(slices.Items[0].Ports) != 3 {
		t.Errorf("slices %+v %v, want one with three ports", slices, err)
	}

	svc.Spec.Ports[2].Name, svc.Spec.Ports[2].TargetPort = "mine", intstr.FromInt32(1) // somebody's own choice
	if _, err := client.CoreV1().Services(namespace).Update(context.Background(), svc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	sync(t, client)
	if svc = get(); len(svc.Spec.Ports) != 3 || svc.Spec.Ports[2].Name != "mine" {
		t.Errorf("ports %v, want them as they were changed", svc.Spec.Ports)
	}
}

func TestServiceWithOtherTargetsIsNotChanged(t *testing.T) {
	other := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: serviceName},
		Spec: corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(5353)}}}}
	client := fake.NewClientset(other)
	sync(t, client)
	for _, a := range client.Actions() {
		if a.GetVerb() == "update" {
			t.Errorf("changed somebody's Service: %v", a)
		}
	}
}

func TestAnotherDNSDeploymentIsLeftAlone(t *testing.T) {
	other := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: serviceName},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"k8s-app": "kube-dns"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}}}
	client := fake.NewClientset(other, node("a", corev1.ConditionTrue, "10.0.0.1"))
	sync(t, client)
	if eps := endpointsOf(t, client); len(eps) != 0 {
		t.Errorf("wrote endpoints %v for a Service of somebody else", eps)
	}
}

func TestNodesLeaveTheServiceToAnotherDeployment(t *testing.T) {
	svc := (&Controller{ctx: &controller.Context{Settings: controller.Settings{ClusterDNS: []string{"10.96.0.10"}, DNSPort: 10053}}}).service()
	svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	client := fake.NewClientset(svc, node("a", corev1.ConditionTrue, "10.0.0.1"))
	sync(t, client)
	if eps := endpointsOf(t, client); len(eps) != 1 {
		t.Fatalf("endpoints %v, want the node's", eps)
	}
	taken := svc.DeepCopy()
	taken.Spec.Selector = map[string]string{"k8s-app": "kube-dns"}
	if _, err := client.CoreV1().Services(namespace).Update(t.Context(), taken, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	sync(t, client)
	if eps := endpointsOf(t, client); len(eps) != 0 {
		t.Errorf("endpoints %v beside another deployment's", eps)
	}
}

func TestManyNodesAreSpreadOverSlices(t *testing.T) {
	svc := &corev1.Service{Spec: corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}}}
	var nodes []*corev1.Node
	for i := range 2000 {
		nodes = append(nodes, node(fmt.Sprint("n", i), corev1.ConditionTrue, fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)))
	}
	total := 0
	for name, s := range desired(svc, nodes) {
		total += len(s.Endpoints)
		if len(s.Endpoints) > 2*perSlice {
			t.Errorf("slice %s has %d endpoints", name, len(s.Endpoints))
		}
	}
	if total != len(nodes) {
		t.Errorf("%d endpoints for %d nodes", total, len(nodes))
	}
}
