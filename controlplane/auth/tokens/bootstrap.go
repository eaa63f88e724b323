// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
	bootstrapsecrets "k8s.io/cluster-bootstrap/util/secrets"
	bootstraptokens "k8s.io/cluster-bootstrap/util/tokens"
	"k8s.io/utils/clock"
)

// BootstrapGroup is the group of every bootstrap token that fairlead makes; the default policy lets it join nodes.
const BootstrapGroup = "system:bootstrappers:fairlead:default-node-token"

// ServerGroup is the group of bootstrap tokens by which further servers join. It may ask for the cluster's keys.
const ServerGroup = "system:bootstrappers:fairlead:servers"

// Bootstrap is a bootstrap token as people see it.
type Bootstrap struct {
	ID, Secret  string    // the token is ID.Secret; Secret is empty in lists that must not show it
	Description string    // for people
	Expires     time.Time // zero: never
	Usages      []string  // authentication, signing
	Groups      []string  // besides system:bootstrappers
}

// String returns the token itself.
func (b Bootstrap) String() string { return b.ID + "." + b.Secret }

// CreateBootstrap stores a token and returns it. Empty ID and Secret are drawn at random; empty Usages and Groups mean authentication,
// signing and BootstrapGroup.
func CreateBootstrap(ctx context.Context, client kubernetes.Interface, b Bootstrap) (Bootstrap, error) {
	random, err := bootstraputil.GenerateBootstrapToken()
	if err != nil {
		return b, err
	}
	id, secretPart, _ := strings.Cut(random, ".")
	b.ID, b.Secret = cmp.Or(b.ID, id), cmp.Or(b.Secret, secretPart)
	if !bootstraputil.IsValidBootstrapToken(b.String()) {
		return b, fmt.Errorf("bootstrap token %s.<secret> is not of the form [a-z0-9]{6}.[a-z0-9]{16}", b.ID)
	}
	if len(b.Usages) == 0 {
		b.Usages = []string{"authentication", "signing"}
	}
	if err := bootstraputil.ValidateUsages(b.Usages); err != nil {
		return b, err
	}
	if len(b.Groups) == 0 {
		b.Groups = []string{BootstrapGroup}
	}
	for _, g := range b.Groups {
		if err := bootstraputil.ValidateBootstrapGroupName(g); err != nil {
			return b, err
		}
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: bootstrapapi.BootstrapTokenSecretPrefix + b.ID},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		StringData: map[string]string{
			bootstrapapi.BootstrapTokenIDKey: b.ID, bootstrapapi.BootstrapTokenSecretKey: b.Secret,
			bootstrapapi.BootstrapTokenDescriptionKey: b.Description, bootstrapapi.BootstrapTokenExtraGroupsKey: strings.Join(b.Groups, ","),
		},
	}
	if !b.Expires.IsZero() {
		secret.StringData[bootstrapapi.BootstrapTokenExpirationKey] = b.Expires.UTC().Format(time.RFC3339)
	}
	for _, u := range b.Usages {
		secret.StringData[bootstrapapi.BootstrapTokenUsagePrefix+u] = "true"
	}
	secret.Data = map[string][]byte{}
	for k, v := range secret.StringData { // Data, so that it means the same to clients that do not merge StringData
		secret.Data[k] = []byte(v)
	}
	secret.StringData = nil
	if _, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return b, fmt.Errorf("store bootstrap token %s: %w", b.ID, err)
	}
	return b, nil
}

// ListBootstrap returns the cluster's bootstrap tokens in the order of their ids, expired ones too.
func ListBootstrap(ctx context.Context, client kubernetes.Interface) ([]Bootstrap, error) {
	list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("type", string(bootstrapapi.SecretTypeBootstrapToken)).String(),
	})
	if err != nil {
		return nil, fmt.Errorf("list bootstrap tokens: %w", err)
	}
	var out []Bootstrap
	for i := range list.Items {
		if s := &list.Items[i]; s.Type == bootstrapapi.SecretTypeBootstrapToken {
			out = append(out, bootstrapOf(s))
		}
	}
	slices.SortFunc(out, func(a, b Bootstrap) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// DeleteBootstrap removes the token with this id; a whole token (id.secret) is accepted too.
func DeleteBootstrap(ctx context.Context, client kubernetes.Interface, token string) error {
	id, _, _ := strings.Cut(token, ".")
	if !bootstraputil.IsValidBootstrapTokenID(id) {
		return fmt.Errorf("%q is not the id of a bootstrap token (six of a-z and 0-9)", id)
	}
	err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, bootstrapapi.BootstrapTokenSecretPrefix+id, metav1.DeleteOptions{})
	if err != nil {
		return fmt.Errorf("delete bootstrap token %s: %w", id, err)
	}
	return nil
}

func bootstrapOf(s *corev1.Secret) Bootstrap {
	b := Bootstrap{
		ID: string(s.Data[bootstrapapi.BootstrapTokenIDKey]), Secret: string(s.Data[bootstrapapi.BootstrapTokenSecretKey]),
		Description: string(s.Data[bootstrapapi.BootstrapTokenDescriptionKey]),
	}
	if t, err := time.Parse(time.RFC3339, string(s.Data[bootstrapapi.BootstrapTokenExpirationKey])); err == nil {
		b.Expires = t
	}
	for _, k := range slices.Sorted(maps.Keys(s.Data)) {
		if usage, ok := strings.CutPrefix(k, bootstrapapi.BootstrapTokenUsagePrefix); ok && string(s.Data[k]) == "true" {
			b.Usages = append(b.Usages, usage)
		}
	}
	if g := string(s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]); g != "" {
		b.Groups = strings.Split(g, ",")
	}
	return b
}

// BootstrapAuthenticator is the authenticator.Token for bootstrap tokens.
type BootstrapAuthenticator struct {
	// Secret reads the Secret name in kube-system.
	Secret func(ctx context.Context, name string) (*corev1.Secret, error)
	Clock  clock.PassiveClock
}

// errBootstrap is the one answer for every unfit token, so that nobody learns which ids exist.
var errBootstrap = errors.New("bootstrap token is unknown, expired or not for authentication")

// AuthenticateToken returns false without error for what does not look like a bootstrap token.
func (a *BootstrapAuthenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	id, secret, err := bootstraptokens.ParseToken(token)
	if err != nil {
		return nil, false, nil
	}
	name := bootstrapapi.BootstrapTokenSecretPrefix + id
	s, err := a.Secret(ctx, name)
	if apierrors.IsNotFound(err) {
		return nil, false, errBootstrap
	}
	if err != nil {
		return nil, false, fmt.Errorf("read bootstrap token: %w", err)
	}
	b := bootstrapOf(s)
	if s.Name != name || s.DeletionTimestamp != nil || s.Type != bootstrapapi.SecretTypeBootstrapToken || b.ID != id ||
		subtle.ConstantTimeCompare([]byte(b.Secret), []byte(secret)) != 1 || !slices.Contains(b.Usages, "authentication") ||
		bootstrapsecrets.HasExpired(s, a.Clock.Now()) {
		return nil, false, errBootstrap
	}
	groups, err := bootstrapsecrets.GetGroups(s)
	if err != nil {
		return nil, false, fmt.Errorf("bootstrap token %s: %w", id, err)
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: bootstrapapi.BootstrapUserPrefix + id, Groups: groups}}, true, nil
}
