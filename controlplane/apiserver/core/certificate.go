// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
	"github.com/fairlead/fairlead/controlplane/apiserver/registry"
)

// approval is certificatesigningrequests/approval: it writes status.conditions and nothing else. Who may approve for which signer is admission's
// question.
func approval(main *registry.Main) *registry.Status {
	return main.Part(registry.Part{
		Metadata: true,
		Take: func(_ context.Context, obj, wanted resource.Object) {
			csr := obj.(*certificatesv1.CertificateSigningRequest)
			csr.Status.Conditions = slices.Clone(wanted.(*certificatesv1.CertificateSigningRequest).Status.Conditions)
			now := metav1.Now()
			for i := range csr.Status.Conditions {
				c := &csr.Status.Conditions[i]
				if c.LastUpdateTime.IsZero() {
					c.LastUpdateTime = now
				}
				if c.LastTransitionTime.IsZero() {
					c.LastTransitionTime = now
				}
				if c.Status == "" {
					c.Status = "True"
				}
			}
		},
		Validate: func(_ context.Context, obj, old resource.Object) field.ErrorList {
			return validateApproval(obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest))
		},
	})
}

// validateApproval keeps decisions final: an approval or denial is never taken back, and a request is never both.
func validateApproval(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	path := field.NewPath("status", "conditions")
	var errs field.ErrorList
	has := func(c *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
		return slices.ContainsFunc(c.Status.Conditions, func(x certificatesv1.CertificateSigningRequestCondition) bool { return x.Type == t })
	}
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		if has(old, t) && !has(csr, t) {
			errs = append(errs, field.Forbidden(path, "the "+string(t)+" condition may not be removed"))
		}
	}
	if has(csr, certificatesv1.CertificateApproved) && has(csr, certificatesv1.CertificateDenied) {
		errs = append(errs, field.Invalid(path, certificatesv1.CertificateDenied, "Approved and Denied conditions are mutually exclusive"))
	}
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range csr.Status.Conditions {
		switch {
		case c.Type == "":
			errs = append(errs, field.Required(path.Index(i).Child("type"), ""))
		case seen[c.Type]:
			errs = append(errs, field.Duplicate(path.Index(i).Child("type"), c.Type))
		}
		seen[c.Type] = true
		decisive := c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed
		if decisive && c.Status != "True" {
			errs = append(errs, field.Invalid(path.Index(i).Child("status"), c.Status, "must be True for this condition"))
		}
	}
	return errs
}
