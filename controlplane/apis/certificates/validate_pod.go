// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"time"

	v1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

const longestUID = 128

func validatePodCertificate(_ context.Context, c *v1.PodCertificateRequest) field.ErrorList {
	r := &rule.Report{}
	path, s := field.NewPath("spec"), &c.Spec
	if at := path.Child("signerName"); r.Required(at, s.SignerName != "", "") {
		podspec.SignerName(r, at, s.SignerName)
	}
	subdomain := func(n string) []string { return apivalidation.NameIsDNSSubdomain(n, false) }
	r.Name(path.Child("podName"), s.PodName, subdomain)
	r.Name(path.Child("serviceAccountName"), s.ServiceAccountName, subdomain)
	r.Name(path.Child("nodeName"), string(s.NodeName), subdomain)
	for _, id := range []struct{ name, value string }{{"podUID", string(s.PodUID)}, {"serviceAccountUID", string(s.ServiceAccountUID)}, {"nodeUID",
		string(s.NodeUID)}} {
		r.Required(path.Child(id.name), id.value != "", "")
		if len(id.value) > longestUID {
			r.Add(field.TooLong(path.Child(id.name), id.value, longestUID))
		}
	}
	if at := path.Child("maxExpirationSeconds"); r.Required(at, s.MaxExpirationSeconds != nil, "must be set") {
		podspec.CertificateLifetime(r, at, s.SignerName, *s.MaxExpirationSeconds)
	}
	podspec.UserAnnotations(r, path.Child("unverifiedUserAnnotations"), s.UnverifiedUserAnnotations)
	at := path.Child("stubPKCS10Request")
	if !r.Required(at, len(s.StubPKCS10Request) > 0, "") {
		return r.Errors()
	}
	if len(s.StubPKCS10Request) > 10*1024 {
		r.Add(field.TooLong(at, "<request>", 10*1024))
		return r.Errors()
	}
	request, err := x509.ParseCertificateRequest(s.StubPKCS10Request)
	if err != nil {
		r.Invalid(at, "<request>", "must be a DER-encoded PKCS#10 request: "+err.Error())
		return r.Errors()
	}
	if err := request.CheckSignature(); err != nil {
		r.Invalid(at, "<request>", "must be signed with the key it names: "+err.Error())
	}
	if !supportedKey(request.PublicKey) {
		r.Invalid(at, "<request>", "the key must be RSA3072, RSA4096, ECDSAP256, ECDSAP384, ECDSAP521 or ED25519")
	}
	return r.Errors()
}

func supportedKey(key any) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return true
	case *ecdsa.PublicKey:
		bits := k.Params().BitSize
		return bits == 256 || bits == 384 || bits == 521
	case *rsa.PublicKey:
		bits := k.Size() * 8
		return bits == 3072 || bits == 4096
	}
	return false
}

func validatePodCertificateUpdate(_ context.Context, c, old *v1.PodCertificateRequest) field.ErrorList {
	r := &rule.Report{}
	r.Same(field.NewPath("spec"), c.Spec, old.Spec)
	return r.Errors()
}

// validatePodCertificateStatus: a request ends in one of three ways and stays there; a certificate comes with its times.
func validatePodCertificateStatus(_ context.Context, c, old *v1.PodCertificateRequest) field.ErrorList {
	r := &rule.Report{}
	path, st := field.NewPath("status"), &c.Status
	r.Add(metavalidation.ValidateConditions(st.Conditions, path.Child("conditions"))...)
	final := map[string]bool{}
	for i, x := range st.Conditions {
		switch x.Type {
		case v1.PodCertificateRequestConditionTypeIssued, v1.PodCertificateRequestConditionTypeDenied, v1.PodCertificateRequestConditionTypeFailed:
			final[x.Type] = true
			rule.OneOf(r, path.Child("conditions").Index(i).Child("status"), x.Status, metav1.ConditionTrue)
		}
	}
	if len(final) > 1 {
		r.Invalid(path.Child("conditions"), st.Conditions, "at most one of Issued, Denied and Failed may be set")
	}
	ended := len(old.Status.Conditions) > 0 || old.Status.CertificateChain != ""
	if ended {
		r.Same(path, *st, old.Status)
		return r.Errors()
	}
	issued := final[v1.PodCertificateRequestConditionTypeIssued]
	times := []struct {
		name string
		t    *metav1.Time
	}{{"notBefore", st.NotBefore}, {"beginRefreshAt", st.BeginRefreshAt}, {"notAfter", st.NotAfter}}
	if !issued {
		r.Forbidden(path.Child("certificateChain"), st.CertificateChain != "", "must not be set unless the request is issued")
		for _, x := range times {
			r.Forbidden(path.Child(x.name), x.t != nil, "must not be set unless the request is issued")
		}
		return r.Errors()
	}
	for _, x := range times {
		r.Required(path.Child(x.name), x.t != nil, "must be set when the request is issued")
	}
	leaf, err := first(st.CertificateChain)
	if err != nil {
		r.Invalid(path.Child("certificateChain"), "<certificate chain>", err.Error())
		return r.Errors()
	}
	if st.NotBefore == nil || st.NotAfter == nil || st.BeginRefreshAt == nil {
		return r.Errors()
	}
	if !st.NotBefore.Time.Equal(leaf.NotBefore) {
		r.Invalid(path.Child("notBefore"), st.NotBefore, "must be the leaf certificate's")
	}
	if !st.NotAfter.Time.Equal(leaf.NotAfter) {
		r.Invalid(path.Child("notAfter"), st.NotAfter, "must be the leaf certificate's")
	}
	if lifetime := leaf.NotAfter.Sub(leaf.NotBefore); lifetime < time.Hour {
		r.Invalid(path.Child("certificateChain"), lifetime.String(), "leaf certificate's lifetime must be at least an hour")
	} else if longest := c.Spec.MaxExpirationSeconds; longest != nil && lifetime > time.Duration(*longest)*time.Second {
		r.Invalid(path.Child("certificateChain"), lifetime.String(), "leaf certificate's lifetime must not be longer than spec.maxExpirationSeconds")
	}
	if st.BeginRefreshAt.Time.Before(leaf.NotBefore.Add(10*time.Minute)) || st.BeginRefreshAt.Time.After(leaf.NotAfter.Add(-10*time.Minute)) {
		r.Invalid(path.Child("beginRefreshAt"), st.BeginRefreshAt, "must be at least 10 minutes after notBefore and before notAfter")
	}
	return r.Errors()
}

// first is the leaf of a chain in PEM.
func first(chain string) (*x509.Certificate, error) {
	if err := certificates([]byte(chain)); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(chain))
	return x509.ParseCertificate(block.Bytes)
}
