// SPDX-License-Identifier: Apache-2.0

// Package csrapproving approves the certificate requests of kubelets that are entitled to what they ask for.
//
// It watches CertificateSigningRequests and Nodes, asks the API server with SubjectAccessReviews, and writes the Approved condition. It denies nothing: what it does
// not recognise is left for a person.
//
//   - kubernetes.io/kube-apiserver-client-kubelet: a node's client certificate, when the requestor may create the subresource nodeclient (the first
//     certificate, with a bootstrap token) or selfnodeclient (a node renewing its own).
//   - kubernetes.io/kubelet-serving: a node's serving certificate, when the node asks for itself and every name and address in it is one that its Node object
//     reports. Kubernetes leaves this to an add-on; see docs/controllers.md.
package csrapproving

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/csrsigning"
)

type loop struct {
	c        *controller.Context
	queue    *controller.Queue
	requests certlisters.CertificateSigningRequestLister
	nodes    corelisters.NodeLister
	synced   []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("certificate-controller", "certificate-controller")
	requests, nodes := c.Informers.Certificates().V1().CertificateSigningRequests(), c.Informers.Core().V1().Nodes()
	l := &loop{
		c: c, requests: requests.Lister(), nodes: nodes.Lister(),
		synced: []cache.InformerSynced{requests.Informer().HasSynced, nodes.Informer().HasSynced},
	}
	l.queue = c.Queue("csrapproving", l.sync)
	controller.On(requests.Informer(), l.queue.Enqueue)
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

// sync approves one request if it is one of ours and its requestor is entitled.
func (l *loop) sync(ctx context.Context, name string) error {
	csr, err := l.requests.Get(name)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	if len(csr.Status.Certificate) > 0 || csrsigning.Decided(csr) {
		return nil
	}
	request, err := csrsigning.ParseRequest(csr.Spec.Request)
	if err != nil {
		return nil // nothing to approve; the signer would refuse it as well
	}
	var ok bool
	var message string
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		ok, message, err = l.client(ctx, csr, request)
	case certificatesv1.KubeletServingSignerName:
		ok, message, err = l.serving(name, csr, request)
	}
	if err != nil || !ok {
		return err
	}
	csr = csr.DeepCopy()
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
	})
	_, err = l.c.Client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, name, csr, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

func (l *loop) client(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) (bool, string, error) {
	if csrsigning.Validate(csr.Spec.SignerName, request, csr.Spec.Usages) != nil {
		return false, "", nil
	}
	tries := []struct{ subresource, message string }{{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."}}
	if csr.Spec.Username == request.Subject.CommonName {
		tries = append([]struct{ subresource, message string }{{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."}}, tries...)
	}
	for _, try := range tries {
		allowed, err := l.allowed(ctx, csr, try.subresource)
		if err != nil || allowed {
			return allowed, try.message, err
		}
	}
	return false, "", nil
}

func (l *loop) allowed(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range csr.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := l.c.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Verb: "create", Subresource: subresource, Version: "*",
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask whether %s may create certificatesigningrequests/%s: %w", csr.Spec.Username, subresource, err)
	}
	return review.Status.Allowed, nil
}

// serving accepts only what the Node object vouches for. A node that has not reported its addresses yet is looked at again soon.
func (l *loop) serving(name string, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) (bool, string, error) {
	if csrsigning.Validate(csr.Spec.SignerName, request, csr.Spec.Usages) != nil || csr.Spec.Username != request.Subject.CommonName {
		return false, "", nil
	}
	node, err := l.nodes.Get(request.Subject.CommonName[len(csrsigning.NodeUserPrefix):])
	if apierrors.IsNotFound(err) { // it asks while it registers
		l.queue.AddAfter(name, time.Second)
		return false, "", nil
	}
	if err != nil {
		return false, "", err
	}
	known := map[string]bool{node.Name: true}
	for _, a := range node.Status.Addresses {
		known[a.Address] = true
	}
	for _, dns := range request.DNSNames {
		if !known[dns] {
			l.queue.AddAfter(name, 10*time.Second)
			return false, "", nil
		}
	}
	for _, ip := range request.IPAddresses {
		if !known[ip.String()] {
			l.queue.AddAfter(name, 10*time.Second)
			return false, "", nil
		}
	}
	return true, "Auto approving kubelet serving certificate: the node asks for itself, with names and addresses its Node object reports.", nil
}
