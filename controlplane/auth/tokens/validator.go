// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"context"
	"crypto"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/clock"
)

const (
	// leeway is how far clocks of several API servers may differ, and how long a token outlives the deletion of its object.
	leeway = time.Minute
	// legacyInvalidSince labels Secrets whose token the cleaner took out of service.
	legacyInvalidSince = "kubernetes.io/legacy-token-invalid-since"
	// staleAnnotation marks the audit events of requests whose token should have been refreshed long ago.
	staleAnnotation = "authentication.k8s.io/stale-token"
	// maxTokenLength bounds what is parsed at all; real tokens have about 1 KiB.
	maxTokenLength = 64 << 10
)

// Validator authenticates service-account tokens. It is an authenticator.Token.
type Validator struct {
	issuers   []string
	keys      []jose.JSONWebKey
	audiences authenticator.Audiences // when a request names none
	get       Getter
	clock     clock.PassiveClock
}

// NewValidator returns a validator of tokens that one of keys signed and that name one of issuers. A token must be meant for one of
// the audiences of the request, or of audiences when the request names none.
func NewValidator(issuers []string, keys []crypto.PublicKey, audiences authenticator.Audiences, get Getter, clk clock.PassiveClock) (*Validator, error) {
	v := &Validator{issuers: issuers, audiences: audiences, get: get, clock: clk}
	for _, k := range keys {
		key, err := publicKey(k)
		if err != nil {
			return nil, err
		}
		v.keys = append(v.keys, key)
	}
	if len(v.keys) == 0 || len(issuers) == 0 || len(audiences) == 0 {
		return nil, errors.New("service-account tokens: need at least one key, one issuer and one audience")
	}
	return v, nil
}

// AuthenticateToken returns false without error for what is not a token of these issuers: another authenticator may know it.
func (v *Validator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	issuer, ok := unverifiedIssuer(token)
	if !ok || issuer != LegacyIssuer && !slices.Contains(v.issuers, issuer) {
		return nil, false, nil
	}
	body, err := v.verify(token)
	if err != nil {
		return nil, false, fmt.Errorf("service-account token: %w", err)
	}
	requested, ok := authenticator.AudiencesFrom(ctx)
	if !ok || len(requested) == 0 {
		requested = v.audiences
	}
	var info *serviceaccount.ServiceAccountInfo
	audiences := v.audiences // those of legacy tokens, which name none
	if issuer == LegacyIssuer {
		info, err = v.legacy(ctx, token, body)
	} else {
		info, audiences, err = v.bound(ctx, body)
	}
	if err != nil {
		return nil, false, fmt.Errorf("service-account token: %w", err)
	}
	matching := audiences.Intersect(requested)
	if len(matching) == 0 {
		return nil, false, fmt.Errorf("service-account token: audiences %q are not among the wanted %q", audiences, requested)
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: matching}, true, nil
}

// verify returns the claims of token after its signature was checked. The algorithm is bound to the key, never taken from the token.
func (v *Validator) verify(token string) ([]byte, error) {
	var algorithms []jose.SignatureAlgorithm
	for _, k := range v.keys {
		algorithms = append(algorithms, jose.SignatureAlgorithm(k.Algorithm))
	}
	parsed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return nil, err
	}
	header := parsed.Signatures[0].Protected
	for _, k := range v.keys {
		if header.Algorithm != k.Algorithm || header.KeyID != "" && header.KeyID != k.KeyID {
			continue
		}
		if body, err := parsed.Verify(k.Key); err == nil {
			return body, nil
		}
	}
	return nil, errors.New("not signed by a key of this cluster")
}

// bound checks the claims of a token made by TokenRequest against time and the objects it is bound to.
func (v *Validator) bound(ctx context.Context, body []byte) (*serviceaccount.ServiceAccountInfo, authenticator.Audiences, error) {
	var c claims
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, nil, err
	}
	now, k := v.clock.Now(), c.Kubernetes
	if c.Expiry == nil {
		return nil, nil, errors.New("it has no end")
	}
	if err := c.ValidateWithLeeway(jwt.Expected{Time: now}, leeway); err != nil {
		return nil, nil, fmt.Errorf("%w (now %s)", err, now.UTC().Format(time.RFC3339))
	}
	if len(c.Audience) == 0 {
		return nil, nil, errors.New("it names no audience")
	}
	if c.Subject != serviceaccount.MakeUsername(k.Namespace, k.ServiceAccount.Name) {
		return nil, nil, fmt.Errorf("subject %q is not its service account", c.Subject)
	}
	if err := v.serviceAccount(ctx, k.Namespace, k.ServiceAccount); err != nil {
		return nil, nil, err
	}
	info := &serviceaccount.ServiceAccountInfo{
		Namespace: k.Namespace, Name: k.ServiceAccount.Name, UID: k.ServiceAccount.UID, CredentialID: tokenjwt.CredentialIDForJTI(c.ID),
	}
	if k.Secret != nil {
		secret, err := v.get.Secret(ctx, k.Namespace, k.Secret.Name)
		if err := v.alive("secret", k.Secret, meta(secret, err)); err != nil {
			return nil, nil, err
		}
	}
	if k.Pod != nil {
		pod, err := v.get.Pod(ctx, k.Namespace, k.Pod.Name)
		if err := v.alive("pod", k.Pod, meta(pod, err)); err != nil {
			return nil, nil, err
		}
		info.PodName, info.PodUID = k.Pod.Name, k.Pod.UID
	}
	if k.Node != nil {
		if k.Pod == nil { // else the pod's life is the bound, and the node only says where it ran
			node, err := v.get.Node(ctx, k.Node.Name)
			if err := v.alive("node", k.Node, meta(node, err)); err != nil {
				return nil, nil, err
			}
		}
		info.NodeName, info.NodeUID = k.Node.Name, k.Node.UID
	}
	if k.WarnAfter != nil && now.After(k.WarnAfter.Time()) {
		audit.AddAuditAnnotation(ctx, staleAnnotation, fmt.Sprintf("subject: %s, seconds after warning threshold: %.0f", c.Subject,
			now.Sub(k.WarnAfter.Time()).Seconds()))
	}
	return info, authenticator.Audiences(c.Audience), nil
}

// legacy checks a token that a Secret holds.
func (v *Validator) legacy(ctx context.Context, token string, body []byte) (*serviceaccount.ServiceAccountInfo, error) {
	var c legacyClaims
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, err
	}
	if c.Subject != serviceaccount.MakeUsername(c.Namespace, c.ServiceAccountName) {
		return nil, fmt.Errorf("subject %q is not its service account", c.Subject)
	}
	if c.SecretName == "" || c.ServiceAccountUID == "" {
		return nil, errors.New("it names no secret or no service account")
	}
	secret, err := v.get.Secret(ctx, c.Namespace, c.SecretName)
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", c.Namespace, c.SecretName, gone(err))
	}
	if secret.DeletionTimestamp != nil || subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
		return nil, fmt.Errorf("secret %s/%s does not hold it any more", c.Namespace, c.SecretName)
	}
	if since := secret.Labels[legacyInvalidSince]; since != "" {
		return nil, fmt.Errorf("secret %s/%s was not used for long and its token is void since %s", c.Namespace, c.SecretName, since)
	}
	if err := v.serviceAccount(ctx, c.Namespace, ref{c.ServiceAccountName, c.ServiceAccountUID}); err != nil {
		return nil, err
	}
	warning.AddWarning(ctx, "", "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.")
	return &serviceaccount.ServiceAccountInfo{Namespace: c.Namespace, Name: c.ServiceAccountName, UID: c.ServiceAccountUID}, nil
}

func (v *Validator) serviceAccount(ctx context.Context, namespace string, r ref) error {
	sa, err := v.get.ServiceAccount(ctx, namespace, r.Name)
	return v.alive("service account", &r, meta(sa, err))
}

// lookup is the outcome of reading an object's metadata.
type lookup struct {
	meta metav1.Object
	err  error
}

func meta(obj metav1.Object, err error) lookup { return lookup{obj, err} }

// alive returns an error unless the object that l found is the one named by r and was not deleted longer than leeway ago.
func (v *Validator) alive(kind string, r *ref, l lookup) error {
	switch {
	case l.err != nil:
		return fmt.Errorf("%s %s: %w", kind, r.Name, gone(l.err))
	case string(l.meta.GetUID()) != r.UID:
		return fmt.Errorf("%s %s was deleted and made again since (uid %s, token has %s)", kind, r.Name, l.meta.GetUID(), r.UID)
	case l.meta.GetDeletionTimestamp() != nil && l.meta.GetDeletionTimestamp().Time.Before(v.clock.Now().Add(-leeway)):
		return fmt.Errorf("%s %s has been deleted", kind, r.Name)
	}
	return nil
}

func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return errors.New("it does not exist any more")
	}
	return err
}

// unverifiedIssuer reads "iss" from what looks like a compact JWT, only to decide who looks at it further.
func unverifiedIssuer(token string) (string, bool) {
	if len(token) > maxTokenLength {
		return "", false
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return "", false
	}
	return c.Issuer, true
}
