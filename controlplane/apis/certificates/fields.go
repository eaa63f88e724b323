// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	v1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/fields"
)

func signingRequestFields(r *v1.CertificateSigningRequest) fields.Set {
	return fields.Set{"spec.signerName": r.Spec.SignerName}
}

func trustBundleFields(b *v1.ClusterTrustBundle) fields.Set {
	return fields.Set{"spec.signerName": b.Spec.SignerName}
}

func podCertificateFields(r *v1.PodCertificateRequest) fields.Set {
	return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
}
