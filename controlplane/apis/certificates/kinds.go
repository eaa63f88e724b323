// SPDX-License-Identifier: Apache-2.0

// Package certificates declares the kinds of the certificates.k8s.io group (v1).
package certificates

import (
	v1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

var group = schema.GroupVersion{Group: "certificates.k8s.io", Version: "v1"}

// Resources are the declarations of the group.
func Resources() []resource.Resource {
	return []resource.Resource{
		certificateSigningRequests().Resource(),
		clusterTrustBundles().Resource(),
		podCertificateRequests().Resource(),
	}
}

func certificateSigningRequests() resource.Kind[*v1.CertificateSigningRequest] {
	return resource.Kind[*v1.CertificateSigningRequest]{
		GVR:            group.WithResource("certificatesigningrequests"),
		Kind:           "CertificateSigningRequest",
		ShortNames:     []string{"csr"},
		ClusterScoped:  true,
		New:            func() *v1.CertificateSigningRequest { return &v1.CertificateSigningRequest{} },
		NewList:        func() runtime.Object { return &v1.CertificateSigningRequestList{} },
		HasStatus:      true,
		NoGeneration:   true,
		Fields:         signingRequestFields,
		Columns:        signingRequestColumns(),
		PrepareCreate:  prepareSigningRequest,
		PrepareUpdate:  prepareSigningRequestUpdate,
		PrepareStatus:  prepareSigningRequestStatus,
		Validate:       validateSigningRequest,
		ValidateStatus: validateSigningRequestStatus,
	}
}

func clusterTrustBundles() resource.Kind[*v1.ClusterTrustBundle] {
	return resource.Kind[*v1.ClusterTrustBundle]{
		GVR:                   group.WithResource("clustertrustbundles"),
		Kind:                  "ClusterTrustBundle",
		ClusterScoped:         true,
		New:                   func() *v1.ClusterTrustBundle { return &v1.ClusterTrustBundle{} },
		NewList:               func() runtime.Object { return &v1.ClusterTrustBundleList{} },
		NoGeneration:          true,
		Fields:                trustBundleFields,
		ConditionalUpdateOnly: true,
		Columns:               trustBundleColumns(),
		Validate:              validateTrustBundle,
		ValidateUpdate:        validateTrustBundleUpdate,
		ValidateName:          trustBundleName,
	}
}

func podCertificateRequests() resource.Kind[*v1.PodCertificateRequest] {
	return resource.Kind[*v1.PodCertificateRequest]{
		GVR:                   group.WithResource("podcertificaterequests"),
		Kind:                  "PodCertificateRequest",
		New:                   func() *v1.PodCertificateRequest { return &v1.PodCertificateRequest{} },
		NewList:               func() runtime.Object { return &v1.PodCertificateRequestList{} },
		HasStatus:             true,
		NoGeneration:          true,
		ConditionalUpdateOnly: true,
		Fields:                podCertificateFields,
		Default:               defaultPodCertificateRequest,
		PrepareStatus:         preparePodCertificateStatus,
		Validate:              validatePodCertificate,
		ValidateUpdate:        validatePodCertificateUpdate,
		ValidateStatus:        validatePodCertificateStatus,
	}
}
