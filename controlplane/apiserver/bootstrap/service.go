// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

const (
	serviceName = "kubernetes"
	// identityLabel marks the Leases by which API servers know of each other, as Kubernetes has it.
	identityLabel = "apiserver.kubernetes.io/identity"
	identityValue = "kube-apiserver"
	// addressAnnotation holds the comma-separated advertise addresses of the lease's holder.
	addressAnnotation = "fairlead.io/advertise-addresses"
	// leaseDuration is how long an API server counts after its last sign of life. It gives one every renewEvery.
	leaseDuration = 15 * time.Second
	renewEvery    = 4 * time.Second
	// forgetAfter is how old the Lease of a server that is gone gets before it is deleted.
	forgetAfter = time.Hour
)

// sightings remembers when this process saw each server's Lease change. Clocks of servers differ; only this one's is asked.
type sightings struct {
	mu   sync.Mutex
	seen map[string]sighting // by the Lease's name
}

type sighting struct {
	renewed time.Time // as the Lease says
	at      time.Time // when it was seen first, by this process's clock
}

// fresh reports whether the Lease changed within leaseDuration. One that is seen for the first time counts unless it is obviously old, so that a
// server that just started does not take the others away.
func (s *sightings) fresh(lease *coordinationv1.Lease, now time.Time) bool {
	if lease.Spec.RenewTime == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	renewed := lease.Spec.RenewTime.Time
	last, known := s.seen[lease.Name]
	if !known && now.Sub(renewed) > 4*leaseDuration {
		last.at = now.Add(-2 * leaseDuration)
	} else if !known || !last.renewed.Equal(renewed) {
		last.at = now
	}
	last.renewed = renewed
	s.seen[lease.Name] = last
	return now.Sub(last.at) <= leaseDuration
}

// kubernetesService renews this server's Lease and makes the Service default/kubernetes point at all servers whose Lease is fresh.
func (c Config) kubernetesService(ctx context.Context) error {
	if err := c.renew(ctx); err != nil {
		return fmt.Errorf("renew the API server's lease: %w", err)
	}
	if err := c.service(ctx); err != nil {
		return fmt.Errorf("service default/kubernetes: %w", err)
	}
	addresses, err := c.alive(ctx)
	if err != nil {
		return err
	}
	return c.publish(ctx, addresses)
}

// leave takes this server out of the endpoints before it stops.
func (c Config) leave(ctx context.Context) error {
	err := c.Client.CoordinationV1().Leases(metav1.NamespaceSystem).Delete(ctx, c.Identity, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	addresses, err := c.alive(ctx)
	if err != nil || len(addresses) == 0 {
		return err // the last one leaves its address: there is nobody better to name
	}
	return c.publish(ctx, addresses)
}

func (c Config) renew(ctx context.Context) error {
	leases := c.Client.CoordinationV1().Leases(metav1.NamespaceSystem)
	now := metav1.NewMicroTime(time.Now())
	addresses := c.Advertise()
	own := make([]string, len(addresses))
	for i, a := range addresses {
		own[i] = a.String()
	}
	lease, err := leases.Get(ctx, c.Identity, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: c.Identity, Labels: map[string]string{identityLabel: identityValue}, Annotations: map[string]string{addressAnnotation: strings.Join(own, ",")}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &c.Identity, LeaseDurationSeconds: ptr.To(int32(leaseDuration.Seconds())), AcquireTime: &now, RenewTime: &now},
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	metav1.SetMetaDataLabel(&lease.ObjectMeta, identityLabel, identityValue)
	metav1.SetMetaDataAnnotation(&lease.ObjectMeta, addressAnnotation, strings.Join(own, ","))
	lease.Spec.HolderIdentity, lease.Spec.RenewTime = &c.Identity, &now
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// alive returns the addresses of all servers whose Lease is fresh, sorted.
func (c Config) alive(ctx context.Context) ([]netip.Addr, error) {
	list, err := c.Client.CoordinationV1().Leases(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: identityLabel + "=" + identityValue})
	if err != nil {
		return nil, fmt.Errorf("list API servers: %w", err)
	}
	var out []netip.Addr
	var errs []error
	for _, l := range list.Items {
		if !c.sightings.fresh(&l, time.Now()) {
			if l.Spec.RenewTime != nil && time.Since(l.Spec.RenewTime.Time) > forgetAfter {
				errs = append(errs, ignoreGone(c.Client.CoordinationV1().Leases(l.Namespace).Delete(ctx, l.Name, metav1.DeleteOptions{
					Preconditions: &metav1.Preconditions{ResourceVersion: &l.ResourceVersion}})))
			}
			continue
		}
		for text := range strings.SplitSeq(l.Annotations[addressAnnotation], ",") {
			// A loopback address is nobody else's way here, and no valid endpoint.
			if a, err := netip.ParseAddr(text); err == nil && !a.IsLoopback() {
				out = append(out, a.Unmap())
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), errors.Join(errs...)
}

// service creates default/kubernetes, or puts its port right.
func (c Config) service(ctx context.Context) error {
	ip, err := FirstAddress(c.ServiceCIDRs)
	if err != nil {
		return err
	}
	services := c.Client.CoreV1().Services(metav1.NamespaceDefault)
	want := corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, SessionAffinity: corev1.ServiceAffinityNone,
		IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicySingleStack),
		Ports:          []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(int32(c.Port))}},
	}
	have, err := services.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = services.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: serviceName, Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}}, Spec: want,
		}, metav1.CreateOptions{})
		return ignoreExists(err)
	}
	if err != nil || equality.Semantic.DeepEqual(have.Spec.Ports, want.Ports) {
		return err
	}
	have.Spec.Ports = want.Ports
	_, err = services.Update(ctx, have, metav1.UpdateOptions{})
	return ignoreExists(err)
}

// publish writes the addresses into Endpoints (those of the Service's family) and one EndpointSlice per family.
func (c Config) publish(ctx context.Context, addresses []netip.Addr) error {
	ip, err := FirstAddress(c.ServiceCIDRs)
	if err != nil {
		return err
	}
	primary := net.ParseIP(ip).To4() != nil
	var family []string
	for _, a := range addresses {
		if a.Is4() == primary {
			family = append(family, a.String())
		}
	}
	return errors.Join(c.publishEndpoints(ctx, family), c.publishSlice(ctx, family, primary))
}

func (c Config) publishEndpoints(ctx context.Context, addresses []string) error {
	client := c.Client.CoreV1().Endpoints(metav1.NamespaceDefault)
	subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "https", Port: int32(c.Port), Protocol: corev1.ProtocolTCP}}}
	for _, a := range addresses {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: a})
	}
	var subsets []corev1.EndpointSubset
	if len(addresses) > 0 {
		subsets = []corev1.EndpointSubset{subset}
	}
	have, err := client.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, &corev1.Endpoints{
			ObjectMeta: metav1.ObjectMeta{Name: serviceName, Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}}, Subsets: subsets,
		}, metav1.CreateOptions{})
		return ignoreExists(err)
	}
	if err != nil || equality.Semantic.DeepEqual(have.Subsets, subsets) && have.Labels[discoveryv1.LabelSkipMirror] == "true" {
		return err
	}
	have.Subsets = subsets
	metav1.SetMetaDataLabel(&have.ObjectMeta, discoveryv1.LabelSkipMirror, "true")
	_, err = client.Update(ctx, have, metav1.UpdateOptions{})
	return ignoreExists(err)
}

func (c Config) publishSlice(ctx context.Context, addresses []string, v4 bool) error {
	client := c.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	want := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: serviceName, Labels: map[string]string{discoveryv1.LabelServiceName: serviceName}},
		AddressType: discoveryv1.AddressTypeIPv6,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(c.Port)), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	if v4 {
		want.AddressType = discoveryv1.AddressTypeIPv4
	}
	for _, a := range addresses {
		want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	have, err := client.Get(ctx, serviceName, metav1.GetOptions{})
	if err == nil && have.AddressType != want.AddressType {
		err = client.Delete(ctx, serviceName, metav1.DeleteOptions{}) // the address type of a slice never changes
		if err == nil {
			err = apierrors.NewNotFound(discoveryv1.Resource("endpointslices"), serviceName)
		}
	}
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
		return ignoreExists(err)
	}
	if err != nil || equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) {
		return err
	}
	have.Endpoints, have.Ports = want.Endpoints, want.Ports
	_, err = client.Update(ctx, have, metav1.UpdateOptions{})
	return ignoreExists(err)
}

// FirstAddress returns the ClusterIP of the Service kubernetes: the first usable address of the first range.
func FirstAddress(cidrs []string) (string, error) {
	if len(cidrs) == 0 {
		return "", errors.New("no service CIDR is configured")
	}
	p, err := netip.ParsePrefix(cidrs[0])
	if err != nil {
		return "", fmt.Errorf("service CIDR: %w", err)
	}
	return p.Masked().Addr().Next().String(), nil
}

// serviceCIDR keeps the ServiceCIDR "kubernetes" for the configured ranges. An object with other ranges is an earlier configuration's: it is left
// alone, because Services may have addresses of it.
func (c Config) serviceCIDR(ctx context.Context) error {
	client := c.Client.NetworkingV1().ServiceCIDRs()
	have, err := client.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		have, err = client.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: serviceName}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: c.ServiceCIDRs},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return ignoreExists(err)
	}
	if !have.DeletionTimestamp.IsZero() || meta.IsStatusConditionTrue(have.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
		return nil
	}
	meta.SetStatusCondition(&have.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Reason: "Configured", Message: "Kubernetes default Service CIDR is ready",
	})
	_, err = client.UpdateStatus(ctx, have, metav1.UpdateOptions{})
	return ignoreExists(err)
}

// ignoreGone is for deletions that another server may have done before.
func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
