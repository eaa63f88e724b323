// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"context"
	"fmt"
	"math"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/clock"
)

const (
	minExpiration = 10 * time.Minute
	// podExpiration is what admission asks for a pod's token: an hour, and seven seconds that mark it. Old clients that never read the
	// file again get a year for it, but are counted as stale after the hour (Kubernetes' extended expiration).
	podExpiration      = 3607 * time.Second
	extendedExpiration = 365 * 24 * time.Hour
)

// RequestConfig is what REST needs.
type RequestConfig struct {
	Issuer        *Issuer
	Get           Getter
	Audiences     authenticator.Audiences // for requests that name none: the API server's own
	MaxExpiration time.Duration           // 0: no bound
	NoExtension   bool                    // pods' tokens end after what was asked
	Clock         clock.PassiveClock
}

// REST is the storage of serviceaccounts/token: it stores nothing and answers a TokenRequest with a token.
type REST struct{ cfg RequestConfig }

var (
	_ rest.NamedCreater             = (*REST)(nil)
	_ rest.GroupVersionKindProvider = (*REST)(nil)
)

// NewREST returns the storage of serviceaccounts/token.
func NewREST(cfg RequestConfig) *REST {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &REST{cfg}
}

func (r *REST) New() runtime.Object { return &authenticationv1.TokenRequest{} }
func (r *REST) Destroy()            {}
func (r *REST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

// Create issues a token for the service account name.
func (r *REST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc,
	options *metav1.CreateOptions) (runtime.Object, error) {
	in, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a TokenRequest, got %T", obj))
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	if in.Name != "" && in.Name != name || in.Namespace != "" && in.Namespace != namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body names %s/%s, the URL %s/%s", in.Namespace, in.Name, namespace, name))
	}
	out := in.DeepCopy()
	out.Name, out.Namespace, out.CreationTimestamp = name, namespace, metav1.NewTime(r.cfg.Clock.Now())
	if len(out.Spec.Audiences) == 0 {
		out.Spec.Audiences = append([]string(nil), r.cfg.Audiences...)
	}
	if out.Spec.ExpirationSeconds == nil {
		hour := int64(time.Hour / time.Second)
		out.Spec.ExpirationSeconds = &hour
	}
	if errs := validateRequest(out); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: authenticationv1.GroupName, Kind: "TokenRequest"}, "", errs)
	}
	if validate != nil {
		asked := out.DeepCopy()
		asked.Spec.Audiences = in.Spec.Audiences // "the API server's own" is for admission to see as such
		if err := validate(ctx, asked); err != nil {
			return nil, err
		}
	}
	sa, err := r.cfg.Get.ServiceAccount(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if in.UID != "" && in.UID != sa.UID {
		return nil, conflict("serviceaccounts", name, in.UID, sa.UID)
	}
	bound, err := r.bind(ctx, sa, out.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	now := r.cfg.Clock.Now()
	asked := time.Duration(*out.Spec.ExpirationSeconds) * time.Second
	if max := r.cfg.MaxExpiration; max > 0 && asked > max {
		warning.AddWarning(ctx, "", fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", *out.Spec.ExpirationSeconds, int64(max/time.Second)))
		asked = max
		*out.Spec.ExpirationSeconds = int64(max / time.Second)
	}
	bound.Audiences, bound.NotBefore, bound.Expires = out.Spec.Audiences, now, now.Add(asked)
	if !r.cfg.NoExtension && bound.Pod != nil && asked == podExpiration && len(r.cfg.Audiences.Intersect(out.Spec.Audiences)) == len(out.Spec.Audiences) {
		bound.WarnAfter, bound.Expires = bound.Expires, now.Add(extendedExpiration)
		if max := r.cfg.MaxExpiration; max > 0 && extendedExpiration > max {
			bound.Expires = now.Add(max)
		}
	}
	token, id, err := r.cfg.Issuer.Issue(bound)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("issue a token for service account %s/%s: %w", namespace, name, err))
	}
	out.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(now.Add(asked))}
	audit.AddAuditAnnotation(ctx, serviceaccount.IssuedCredentialIDAuditAnnotationKey, tokenjwt.CredentialIDForJTI(id))
	return out, nil
}

// bind looks up the object that the token shall end with.
func (r *REST) bind(ctx context.Context, sa *corev1.ServiceAccount, to *authenticationv1.BoundObjectReference) (Bound, error) {
	bound := Bound{ServiceAccount: sa}
	if to == nil {
		return bound, nil
	}
	var uid types.UID
	var resource string
	switch gvk := schema.FromAPIVersionAndKind(to.APIVersion, to.Kind); gvk {
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		pod, err := r.cfg.Get.Pod(ctx, sa.Namespace, to.Name)
		if err != nil {
			return bound, err
		}
		if pod.Spec.ServiceAccountName != sa.Name {
			return bound, apierrors.NewBadRequest(fmt.Sprintf("pod %q runs as service account %q: a token of %q cannot be bound to it", to.Name,
				pod.Spec.ServiceAccountName, sa.Name))
		}
		bound.Pod, uid, resource = pod, pod.UID, "pods"
		if pod.Spec.NodeName != "" {
			// The node may be gone or not registered yet: the token then says only its name.
			bound.Node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pod.Spec.NodeName}}
			switch node, err := r.cfg.Get.Node(ctx, pod.Spec.NodeName); {
			case err == nil:
				bound.Node = node
			case !apierrors.IsNotFound(err):
				return bound, apierrors.NewInternalError(err)
			}
		}
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		secret, err := r.cfg.Get.Secret(ctx, sa.Namespace, to.Name)
		if err != nil {
			return bound, err
		}
		bound.Secret, uid, resource = secret, secret.UID, "secrets"
	case corev1.SchemeGroupVersion.WithKind("Node"):
		node, err := r.cfg.Get.Node(ctx, to.Name)
		if err != nil {
			return bound, err
		}
		bound.Node, uid, resource = node, node.UID, "nodes"
	default:
		return bound, apierrors.NewBadRequest(fmt.Sprintf("a token can be bound to a v1 Pod, Secret or Node, not to %s", gvk))
	}
	if to.UID != "" && to.UID != uid {
		return bound, conflict(resource, to.Name, to.UID, uid)
	}
	return bound, nil
}

func validateRequest(tr *authenticationv1.TokenRequest) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	switch seconds := *tr.Spec.ExpirationSeconds; {
	case seconds < int64(minExpiration/time.Second):
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes"))
	case seconds > math.MaxUint32:
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	for i, a := range tr.Spec.Audiences {
		if a == "" {
			errs = append(errs, field.Invalid(spec.Child("audiences").Index(i), a, "may not be empty"))
		}
	}
	return errs
}

func conflict(resource, name string, asked, actual types.UID) error {
	return apierrors.NewConflict(schema.GroupResource{Resource: resource}, name,
		fmt.Errorf("asked for UID %s, but the object has UID %s: it was deleted and made again", asked, actual))
}
