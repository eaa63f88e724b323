// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	v1 "k8s.io/api/certificates/v1"
)

func defaultPodCertificateRequest(r *v1.PodCertificateRequest) {
	if r.Spec.MaxExpirationSeconds == nil {
		r.Spec.MaxExpirationSeconds = new(int32(24 * 3600))
	}
}
