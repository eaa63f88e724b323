// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"context"

	v1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// prepareSigningRequest writes down who asks: signers decide by it, so what the client claims about itself does not count.
func prepareSigningRequest(ctx context.Context, r *v1.CertificateSigningRequest) {
	r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = "", "", nil, nil
	if user, ok := request.UserFrom(ctx); ok {
		r.Spec.Username, r.Spec.UID, r.Spec.Groups = user.GetName(), user.GetUID(), user.GetGroups()
		for key, values := range user.GetExtra() {
			if r.Spec.Extra == nil {
				r.Spec.Extra = map[string]v1.ExtraValue{}
			}
			r.Spec.Extra[key] = values
		}
	}
	r.Status = v1.CertificateSigningRequestStatus{}
}

// prepareSigningRequestUpdate lets an update change metadata only.
func prepareSigningRequestUpdate(_ context.Context, r, old *v1.CertificateSigningRequest) {
	r.Spec, r.Status = old.Spec, old.Status
}

// prepareSigningRequestStatus keeps the decisions, which only the approval subresource makes, and dates new conditions.
func prepareSigningRequestStatus(_ context.Context, r, old *v1.CertificateSigningRequest) {
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		for _, o := range old.Status.Conditions {
			if o.Type != c.Type {
				continue
			}
			if c.Type == v1.CertificateApproved || c.Type == v1.CertificateDenied {
				*c = o
			} else if c.LastTransitionTime.IsZero() && o.Status == c.Status {
				c.LastTransitionTime = o.LastTransitionTime
			}
		}
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = metav1.Now()
		}
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = metav1.Now()
		}
	}
}

// preparePodCertificateStatus dates new conditions.
func preparePodCertificateStatus(_ context.Context, r, old *v1.PodCertificateRequest) {
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		for _, o := range old.Status.Conditions {
			if o.Type == c.Type && o.Status == c.Status && c.LastTransitionTime.IsZero() {
				c.LastTransitionTime = o.LastTransitionTime
			}
		}
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = metav1.Now()
		}
	}
}
