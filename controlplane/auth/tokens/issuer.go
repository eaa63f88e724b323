// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// LegacyIssuer is the issuer named in the tokens of Secrets of type kubernetes.io/service-account-token.
const LegacyIssuer = "kubernetes/serviceaccount"

// Issuer signs service-account tokens. It is safe for concurrent use.
type Issuer struct {
	url    string
	signer jose.Signer
	key    jose.JSONWebKey // the public half
}

// NewIssuer returns an issuer that signs with key (RSA, or ECDSA on P-256, P-384, P-521) and names url as "iss".
func NewIssuer(url string, key crypto.Signer) (*Issuer, error) {
	if url == "" {
		return nil, errors.New("service-account issuer: no URL")
	}
	public, err := publicKey(key.Public())
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(public.Algorithm),
		Key:       jose.JSONWebKey{Key: key, KeyID: public.KeyID, Algorithm: public.Algorithm},
	}, nil)
	if err != nil {
		return nil, err
	}
	return &Issuer{url: url, signer: signer, key: public}, nil
}

// URL is the issuer's identity.
func (i *Issuer) URL() string { return i.url }

// PublicKey returns the key with which the issuer's tokens are checked.
func (i *Issuer) PublicKey() crypto.PublicKey { return i.key.Key }

// Bound says what a token is for.
type Bound struct {
	ServiceAccount *corev1.ServiceAccount
	Audiences      []string
	Pod            *corev1.Pod    // the token ends with this pod
	Secret         *corev1.Secret // the token ends with this secret
	Node           *corev1.Node   // with Pod: where it runs; alone: the token ends with this node
	NotBefore      time.Time
	Expires        time.Time
	WarnAfter      time.Time // zero, or when using the token begins to be counted as stale
}

// claims is the body of a token.
type claims struct {
	jwt.Claims
	Kubernetes kubernetesClaims `json:"kubernetes.io,omitempty"`
}

// issued is how claims are written: one audience is a list too, as readers of Kubernetes' tokens expect, where jwt.Audience writes a string.
type issued struct {
	claims
	Audience []string `json:"aud,omitempty"`
}

type kubernetesClaims struct {
	Namespace      string           `json:"namespace,omitempty"`
	Node           *ref             `json:"node,omitempty"`
	Pod            *ref             `json:"pod,omitempty"`
	Secret         *ref             `json:"secret,omitempty"`
	ServiceAccount ref              `json:"serviceaccount,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

type ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// Issue returns a signed token and its id ("jti").
func (i *Issuer) Issue(b Bound) (token, id string, err error) {
	if b.Pod != nil && b.Secret != nil || b.Secret != nil && b.Node != nil {
		return "", "", errors.New("a token is bound to one object")
	}
	if !b.Expires.After(b.NotBefore) {
		return "", "", fmt.Errorf("a token from %v to %v is never valid", b.NotBefore, b.Expires)
	}
	c := claims{Claims: jwt.Claims{
		Issuer: i.url, Subject: serviceaccount.MakeUsername(b.ServiceAccount.Namespace, b.ServiceAccount.Name), ID: uuid.NewString(),
		IssuedAt: jwt.NewNumericDate(b.NotBefore), NotBefore: jwt.NewNumericDate(b.NotBefore), Expiry: jwt.NewNumericDate(b.Expires),
	}}
	k := &c.Kubernetes
	k.Namespace, k.ServiceAccount = b.ServiceAccount.Namespace, ref{b.ServiceAccount.Name, string(b.ServiceAccount.UID)}
	if b.Pod != nil {
		k.Pod = &ref{b.Pod.Name, string(b.Pod.UID)}
	}
	if b.Secret != nil {
		k.Secret = &ref{b.Secret.Name, string(b.Secret.UID)}
	}
	if b.Node != nil {
		k.Node = &ref{b.Node.Name, string(b.Node.UID)}
	}
	if !b.WarnAfter.IsZero() {
		k.WarnAfter = jwt.NewNumericDate(b.WarnAfter)
	}
	token, err = jwt.Signed(i.signer).Claims(issued{claims: c, Audience: b.Audiences}).Serialize()
	return token, c.ID, err
}

// legacyClaims is the body of a Secret's token, which has neither end nor audience.
type legacyClaims struct {
	Issuer             string `json:"iss"`
	Subject            string `json:"sub"`
	Namespace          string `json:"kubernetes.io/serviceaccount/namespace"`
	SecretName         string `json:"kubernetes.io/serviceaccount/secret.name"`
	ServiceAccountName string `json:"kubernetes.io/serviceaccount/service-account.name"`
	ServiceAccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

// IssueLegacy returns the token that belongs into secret (type kubernetes.io/service-account-token) of the service account sa. It is
// valid as long as both exist and the Secret holds it.
func (i *Issuer) IssueLegacy(sa *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	return jwt.Signed(i.signer).Claims(legacyClaims{
		Issuer: LegacyIssuer, Subject: serviceaccount.MakeUsername(sa.Namespace, sa.Name), Namespace: sa.Namespace,
		SecretName: secret.Name, ServiceAccountName: sa.Name, ServiceAccountUID: string(sa.UID),
	}).Serialize()
}

// publicKey returns key with its algorithm and the id under which it is published: the hash of its PKIX form, as Kubernetes names keys.
func publicKey(key crypto.PublicKey) (jose.JSONWebKey, error) {
	out := jose.JSONWebKey{Key: key, Use: "sig"}
	switch k := key.(type) {
	case *rsa.PublicKey:
		out.Algorithm = string(jose.RS256)
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			out.Algorithm = string(jose.ES256)
		case elliptic.P384():
			out.Algorithm = string(jose.ES384)
		case elliptic.P521():
			out.Algorithm = string(jose.ES512)
		default:
			return out, fmt.Errorf("service-account key: curve %s is not supported, use P-256, P-384 or P-521", k.Curve.Params().Name)
		}
	default:
		return out, fmt.Errorf("service-account key: type %T is not supported, use RSA or ECDSA", key)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return out, err
	}
	sum := sha256.Sum256(der)
	out.KeyID = base64.RawURLEncoding.EncodeToString(sum[:])
	return out, nil
}
