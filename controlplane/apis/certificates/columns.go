// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"time"

	v1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func signingRequestColumns() []resource.Column[*v1.CertificateSigningRequest] {
	return []resource.Column[*v1.CertificateSigningRequest]{
		column.Name[*v1.CertificateSigningRequest](),
		column.Age[*v1.CertificateSigningRequest](),
		column.Text("SignerName", "Who is asked to sign.", func(r *v1.CertificateSigningRequest) string { return column.Or(r.Spec.SignerName, column.None) }),
		column.Text("Requestor", "Who asks.", func(r *v1.CertificateSigningRequest) string { return r.Spec.Username }),
		column.Text("RequestedDuration", "How long the certificate should be valid.", func(r *v1.CertificateSigningRequest) string {
			if r.Spec.ExpirationSeconds == nil {
				return column.None
			}
			return duration.HumanDuration(time.Duration(*r.Spec.ExpirationSeconds) * time.Second)
		}),
		column.Text("Condition", "How far the request has come.", condition),
	}
}

func condition(r *v1.CertificateSigningRequest) string {
	has := map[v1.RequestConditionType]bool{}
	for _, c := range r.Status.Conditions {
		has[c.Type] = true
	}
	status := "Pending"
	switch {
	case has[v1.CertificateDenied]:
		status = "Denied"
	case has[v1.CertificateApproved]:
		status = "Approved"
	}
	if has[v1.CertificateFailed] {
		status += ",Failed"
	}
	if len(r.Status.Certificate) > 0 {
		status += ",Issued"
	}
	return status
}

func trustBundleColumns() []resource.Column[*v1.ClusterTrustBundle] {
	return []resource.Column[*v1.ClusterTrustBundle]{
		column.Name[*v1.ClusterTrustBundle](),
		column.Text("SignerName", "Signer whose roots the bundle holds.", func(b *v1.ClusterTrustBundle) string { return column.Or(b.Spec.SignerName, column.None) }),
	}
}
