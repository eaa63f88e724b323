// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// projected reports what is wrong with the sources of a projected volume, and files that two of them would write.
func projected(r *rule.Report, at *field.Path, s *v1.ProjectedVolumeSource) {
	mode(r, at.Child("defaultMode"), s.DefaultMode)
	written := map[string]bool{}
	file := func(at *field.Path, path string) {
		if !r.Required(at, path != "", "") {
			return
		}
		ownPath(r, at, path)
		if written[path] {
			r.Invalid(at, path, "conflicting duplicate paths")
		}
		written[path] = true
	}
	for i := range s.Sources {
		p, at := &s.Sources[i], at.Child("sources").Index(i)
		r.ExactlyOne(at, rule.Choice{Name: "secret", Set: p.Secret != nil}, rule.Choice{Name: "configMap", Set: p.ConfigMap != nil},
			rule.Choice{Name: "downwardAPI", Set: p.DownwardAPI != nil}, rule.Choice{Name: "serviceAccountToken", Set: p.ServiceAccountToken != nil},
			rule.Choice{Name: "clusterTrustBundle", Set: p.ClusterTrustBundle != nil}, rule.Choice{Name: "podCertificate", Set: p.PodCertificate != nil})
		if x := p.Secret; x != nil {
			r.Required(at.Child("secret", "name"), x.Name != "", "")
			keys(r, at.Child("secret", "items"), x.Items)
			notTwice(r, at.Child("secret", "items"), x.Items, written)
		}
		if x := p.ConfigMap; x != nil {
			r.Required(at.Child("configMap", "name"), x.Name != "", "")
			keys(r, at.Child("configMap", "items"), x.Items)
			notTwice(r, at.Child("configMap", "items"), x.Items, written)
		}
		if x := p.DownwardAPI; x != nil {
			downward(r, at.Child("downwardAPI", "items"), x.Items)
			for j, item := range x.Items {
				if item.Path != "" && written[item.Path] {
					r.Invalid(at.Child("downwardAPI", "items").Index(j).Child("path"), item.Path, "conflicting duplicate paths")
				}
				written[item.Path] = true
			}
		}
		if x := p.ServiceAccountToken; x != nil {
			at := at.Child("serviceAccountToken")
			if x.ExpirationSeconds != nil {
				r.Between(at.Child("expirationSeconds"), *x.ExpirationSeconds, 600, 1<<32)
			}
			file(at.Child("path"), x.Path)
		}
		if x := p.ClusterTrustBundle; x != nil {
			at := at.Child("clusterTrustBundle")
			trustBundle(r, at, x)
			file(at.Child("path"), x.Path)
		}
		if x := p.PodCertificate; x != nil {
			at := at.Child("podCertificate")
			podCertificate(r, at, x)
			for _, f := range []struct{ name, path string }{
				{"credentialBundlePath", x.CredentialBundlePath}, {"keyPath", x.KeyPath}, {"certificateChainPath", x.CertificateChainPath},
			} {
				if f.path != "" {
					file(at.Child(f.name), f.path)
				}
			}
		}
	}
}

func notTwice(r *rule.Report, at *field.Path, items []v1.KeyToPath, written map[string]bool) {
	for i, k := range items {
		if k.Path != "" && written[k.Path] {
			r.Invalid(at.Index(i).Child("path"), k.Path, "conflicting duplicate paths")
		}
		written[k.Path] = true
	}
}

func trustBundle(r *rule.Report, at *field.Path, x *v1.ClusterTrustBundleProjection) {
	byName, bySigner := x.Name != nil, x.SignerName != nil
	switch {
	case byName && bySigner:
		r.Invalid(at, "", "only one of name and signerName may be used")
	case byName && *x.Name == "":
		r.Required(at.Child("name"), false, "must be a valid object name")
	case byName:
		name := *x.Name
		if signer, rest, ok := cutLast(name, ":"); ok {
			SignerName(r, at.Child("name"), strings.ReplaceAll(signer, ":", "/"))
			name = rest
		}
		r.Invalid(at.Child("name"), *x.Name, subdomain(name)...)
		if x.LabelSelector != nil {
			r.Invalid(at.Child("labelSelector"), x.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case bySigner && *x.SignerName == "":
		r.Required(at.Child("signerName"), false, "must be a valid signer name")
	case bySigner:
		SignerName(r, at.Child("signerName"), *x.SignerName)
		r.Selector(at.Child("labelSelector"), x.LabelSelector)
	default:
		r.Required(at, false, "either name or signerName must be specified")
	}
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func podCertificate(r *rule.Report, at *field.Path, x *v1.PodCertificateProjection) {
	if r.Required(at.Child("signerName"), x.SignerName != "", "") {
		SignerName(r, at.Child("signerName"), x.SignerName)
	}
	KeyType(r, at.Child("keyType"), x.KeyType)
	if n := x.MaxExpirationSeconds; n != nil {
		CertificateLifetime(r, at.Child("maxExpirationSeconds"), x.SignerName, *n)
	}
	if x.CredentialBundlePath == "" && x.KeyPath == "" && x.CertificateChainPath == "" {
		r.Required(at, false, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
	UserAnnotations(r, at.Child("userAnnotations"), x.UserAnnotations)
}

// KeyType reports a kind of key pair that nobody makes.
func KeyType(r *rule.Report, at *field.Path, value string) {
	rule.OneOf(r, at, value, "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
}

// CertificateLifetime reports a lifetime, in seconds, below an hour or beyond 91 days; beyond a day for Kubernetes' own signers.
func CertificateLifetime(r *rule.Report, at *field.Path, signer string, seconds int32) {
	longest := int64(91 * 24 * 3600)
	if strings.HasPrefix(signer, "kubernetes.io/") {
		longest = 24 * 3600
	}
	r.Between(at, int64(seconds), 3600, longest)
}

// UserAnnotations reports annotations for a signer that are none, or that have no domain.
func UserAnnotations(r *rule.Report, at *field.Path, annotations map[string]string) {
	r.Add(apivalidation.ValidateAnnotations(annotations, at)...)
	for k := range annotations {
		if !strings.Contains(k, "/") {
			r.Invalid(at, k, "must be domain-prefixed, as example.com/key")
		}
	}
}

// SignerName reports what is no signer: a domain and a path, as example.com/signer.
func SignerName(r *rule.Report, at *field.Path, name string) {
	segments := strings.Split(name, "/")
	if len(segments) != 2 {
		r.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	domain := strings.Split(segments[0], ".")
	r.Invalid(at, name, validation.IsDNS1123Subdomain(segments[0])...)
	if len(domain) < 2 {
		r.Invalid(at, name, "should be a domain with at least two segments separated by dots")
	}
	for _, part := range domain {
		r.Invalid(at, name, validation.IsDNS1123Label(part)...)
	}
	path := segments[1]
	switch {
	case path == "":
		r.Invalid(at, name, "path must be non-empty")
	case len(path) > 253:
		r.Add(field.TooLong(at, name, 253+1+253))
	default:
		r.Invalid(at, name, validation.IsDNS1123Subdomain(path)...)
	}
}
