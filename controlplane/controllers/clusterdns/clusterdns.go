// SPDX-License-Identifier: Apache-2.0

// Package clusterdns publishes the nodes' own DNS servers as the Service kube-system/kube-dns, which every Kubernetes client expects.
//
// It watches Nodes, that Service and its EndpointSlices; it writes the Service (when absent, or made without ports that it has today) and one endpoint for each node, ready when the node is and
// its DNS server answers, hinted to its own node, so that a node's clients use the node's server and fall over to others when it is not ready. A kube-dns Service
// with a selector belongs to somebody else's DNS deployment: then the nodes have no endpoints in it.
package clusterdns

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	namespace   = metav1.NamespaceSystem
	serviceName = "kube-dns"
	managedBy   = "clusterdns.fairlead.io"
	servicePort = 53
	metricsPort = 9153
	// annotationDNS is "down" on a Node whose DNS server does not answer; the node's agent writes it.
	annotationDNS = "fairlead.io/dns"
	// perSlice bounds the endpoints of a slice, so that a change of one node does not send every node to every watcher.
	perSlice = 500
	// everything is the only key: the Service and its slices are computed as a whole.
	everything = "kube-dns"
)

// Controller is the control loop.
type Controller struct {
	ctx      *controller.Context
	queue    *controller.Queue
	nodes    corelisters.NodeLister
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	synced   []cache.InformerSynced
}

// New registers the controller's event handlers.
func New(c *controller.Context) controller.Controller {
	c = c.As("cluster-dns-controller", "cluster-dns-controller")
	nodes, services, endpointSlices := c.Informers.Core().V1().Nodes(), c.Informers.Core().V1().Services(), c.Informers.Discovery().V1().EndpointSlices()
	d := &Controller{ctx: c, nodes: nodes.Lister(), services: services.Lister(), slices: endpointSlices.Lister()}
	d.queue = c.Queue("clusterdns", d.sync)
	controller.Watch(nodes.Informer(), func(old, obj any) {
		before, _ := old.(*corev1.Node)
		after, _ := obj.(*corev1.Node)
		if before == nil || after == nil || before == after || !facts(before).equal(facts(after)) {
			d.queue.Add(everything)
		}
	})
	controller.On(services.Informer(), func(obj any) {
		if svc, ok := controller.Object[*corev1.Service](obj); ok && svc.Namespace == namespace && svc.Name == serviceName {
			d.queue.Add(everything)
		}
	})
	controller.On(endpointSlices.Informer(), func(obj any) {
		if s, ok := controller.Object[*discoveryv1.EndpointSlice](obj); ok && s.Labels[discoveryv1.LabelManagedBy] == managedBy {
			d.queue.Add(everything)
		}
	})
	d.synced = []cache.InformerSynced{nodes.Informer().HasSynced, services.Informer().HasSynced, endpointSlices.Informer().HasSynced}
	return d
}

// Run implements controller.Controller.
func (d *Controller) Run(ctx context.Context) error {
	if len(d.ctx.Settings.ClusterDNS) == 0 {
		return nil
	}
	d.queue.Add(everything)
	return d.queue.Run(ctx, 1, d.synced...)
}

func (d *Controller) sync(ctx context.Context, _ string) error {
	svc, err := d.services.Services(namespace).Get(serviceName)
	if apierrors.IsNotFound(err) {
		svc, err = d.ctx.Client.CoreV1().Services(namespace).Create(ctx, d.service(), metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	have, err := d.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelManagedBy: managedBy}))
	if err != nil {
		return err
	}
	if len(svc.Spec.Selector) > 0 {
		klog.FromContext(ctx).V(2).Info("Service kube-dns has a selector: another DNS deployment answers for the cluster")
		return d.apply(ctx, have, nil) // which may have taken the place of the nodes' servers
	}
	if whole := d.completed(svc); whole != nil {
		if svc, err = d.ctx.Client.CoreV1().Services(namespace).Update(ctx, whole, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	nodes, err := d.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	return d.apply(ctx, have, desired(svc, nodes))
}

// apply makes the slices in the API equal to want.
func (d *Controller) apply(ctx context.Context, have []*discoveryv1.EndpointSlice, want map[string]*discoveryv1.EndpointSlice) error {
	client := d.ctx.Client.DiscoveryV1().EndpointSlices(namespace)
	for _, h := range have {
		w, keep := want[h.Name]
		if !keep || h.AddressType != w.AddressType {
			if err := client.Delete(ctx, h.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &h.UID}}); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			continue
		}
		delete(want, h.Name)
		if equality.Semantic.DeepEqual(h.Endpoints, w.Endpoints) && equality.Semantic.DeepEqual(h.Ports, w.Ports) {
			continue
		}
		update := h.DeepCopy()
		update.Endpoints, update.Ports = w.Endpoints, w.Ports
		if _, err := client.Update(ctx, update, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	for _, w := range want {
		if _, err := client.Create(ctx, w, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// service is the kube-dns Service as CoreDNS deployments have it, without a selector.
func (d *Controller) service() *corev1.Service {
	target := intstr.FromInt32(d.ctx.Settings.DNSPort)
	policy := corev1.IPFamilyPolicySingleStack
	if len(d.ctx.Settings.ClusterDNS) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: serviceName,
			Labels:      map[string]string{"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
			Annotations: map[string]string{"prometheus.io/port": strconv.Itoa(metricsPort), "prometheus.io/scrape": "true"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: d.ctx.Settings.ClusterDNS[0], ClusterIPs: d.ctx.Settings.ClusterDNS, IPFamilyPolicy: &policy,
			TrafficDistribution: ptr.To(corev1.ServiceTrafficDistributionPreferSameNode),
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: servicePort, TargetPort: target},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: servicePort, TargetPort: target},
				{Name: "metrics", Protocol: corev1.ProtocolTCP, Port: metricsPort, TargetPort: intstr.FromInt32(metricsPort)},
			},
		},
	}
}

// completed returns svc with the ports that an earlier version did not give it, nil when it lacks none. A Service whose names are not answered at the nodes' port is not touched.
func (d *Controller) completed(svc *corev1.Service) *corev1.Service {
	want := d.service()
	ours := slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.TargetPort == want.Spec.Ports[0].TargetPort })
	if !ours {
		return nil
	}
	whole := svc.DeepCopy()
	for _, w := range want.Spec.Ports {
		taken := slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool {
			return p.Name == w.Name || p.Protocol == w.Protocol && p.Port == w.Port
		})
		if !taken {
			whole.Spec.Ports = append(whole.Spec.Ports, w)
		}
	}
	if len(whole.Spec.Ports) == len(svc.Spec.Ports) {
		return nil
	}
	for k, v := range want.Annotations {
		if _, set := whole.Annotations[k]; !set {
			metav1.SetMetaDataAnnotation(&whole.ObjectMeta, k, v)
		}
	}
	return whole
}

// desired computes the slices of svc by name.
func desired(svc *corev1.Service, nodes []*corev1.Node) map[string]*discoveryv1.EndpointSlice {
	var ports []discoveryv1.EndpointPort
	for _, p := range svc.Spec.Ports {
		ports = append(ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Protocol: ptr.To(p.Protocol), Port: ptr.To(p.TargetPort.IntVal)})
	}
	buckets := uint32(1)
	for int(buckets)*perSlice < len(nodes) {
		buckets *= 2
	}
	out := map[string]*discoveryv1.EndpointSlice{}
	for _, n := range nodes {
		f := facts(n)
		for _, a := range f.addrs {
			family := discoveryv1.AddressTypeIPv4
			if a.Is6() {
				family = discoveryv1.AddressTypeIPv6
			}
			if !slices.Contains(svc.Spec.IPFamilies, corev1.IPFamily(family)) {
				continue
			}
			h := fnv.New32a()
			h.Write([]byte(n.Name))
			name := fmt.Sprintf("%s-%s-%d", serviceName, strings.ToLower(string(family)), h.Sum32()%buckets)
			s := out[name]
			if s == nil {
				s = newSlice(svc, name, family, ports)
				out[name] = s
			}
			s.Endpoints = append(s.Endpoints, f.endpoint(a))
		}
	}
	for _, s := range out {
		slices.SortFunc(s.Endpoints, func(a, b discoveryv1.Endpoint) int { return strings.Compare(*a.NodeName, *b.NodeName) })
	}
	return out
}

func newSlice(svc *corev1.Service, name string, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name,
			Labels:          map[string]string{discoveryv1.LabelServiceName: serviceName, discoveryv1.LabelManagedBy: managedBy, "k8s-app": "kube-dns"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: family,
		Ports:       ports,
	}
}

// nodeFacts are what of a Node matters here.
type nodeFacts struct {
	name, zone string
	ready      bool
	addrs      []netip.Addr // the first internal address of each family
}

func facts(n *corev1.Node) nodeFacts {
	f := nodeFacts{name: n.Name, zone: n.Labels[corev1.LabelTopologyZone]}
	for _, c := range n.Status.Conditions {
		f.ready = f.ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}
	f.ready = f.ready && n.Annotations[annotationDNS] != "down"
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if a.Type != corev1.NodeInternalIP || err != nil {
			continue
		}
		if !slices.ContainsFunc(f.addrs, func(have netip.Addr) bool { return have.Is6() == ip.Is6() }) {
			f.addrs = append(f.addrs, ip)
		}
	}
	return f
}

func (f nodeFacts) equal(g nodeFacts) bool {
	return f.name == g.name && f.zone == g.zone && f.ready == g.ready && slices.Equal(f.addrs, g.addrs)
}

func (f nodeFacts) endpoint(a netip.Addr) discoveryv1.Endpoint {
	ep := discoveryv1.Endpoint{
		Addresses:  []string{a.String()},
		NodeName:   ptr.To(f.name),
		Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(f.ready), Serving: ptr.To(f.ready), Terminating: ptr.To(false)},
		Hints:      &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: f.name}}},
	}
	if f.zone != "" {
		ep.Zone = ptr.To(f.zone)
		ep.Hints.ForZones = []discoveryv1.ForZone{{Name: f.zone}}
	}
	return ep
}
