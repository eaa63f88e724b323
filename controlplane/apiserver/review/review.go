// SPDX-License-Identifier: Apache-2.0

// Package review answers the questions that clients ask about authentication and authorization: TokenReview, SelfSubjectReview and the
// SubjectAccessReview family. Nothing is stored; the answers come from the server's own authenticator and authorizer.
package review

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Config is whom to ask.
type Config struct {
	Token      authenticator.Token
	Audiences  authenticator.Audiences
	Authorizer authorizer.Authorizer
	Rules      authorizer.RuleResolver
}

// Install hands the storages of both groups to put.
func Install(put func(gv schema.GroupVersion, resource string, s rest.Storage), cfg Config) {
	authn, authz := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	put(authn, "tokenreviews", &question[*authenticationv1.TokenReview]{name: "tokenreview",
		fresh: func() *authenticationv1.TokenReview { return &authenticationv1.TokenReview{} }, answer: cfg.reviewToken})
	put(authn, "selfsubjectreviews", &question[*authenticationv1.SelfSubjectReview]{name: "selfsubjectreview",
		fresh: func() *authenticationv1.SelfSubjectReview { return &authenticationv1.SelfSubjectReview{} }, answer: reviewSelf})
	put(authz, "subjectaccessreviews", &question[*authorizationv1.SubjectAccessReview]{name: "subjectaccessreview",
		fresh: func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} }, answer: cfg.reviewAccess})
	put(authz, "localsubjectaccessreviews", &question[*authorizationv1.LocalSubjectAccessReview]{name: "localsubjectaccessreview", namespaced: true,
		fresh: func() *authorizationv1.LocalSubjectAccessReview { return &authorizationv1.LocalSubjectAccessReview{} }, answer: cfg.reviewLocalAccess})
	put(authz, "selfsubjectaccessreviews", &question[*authorizationv1.SelfSubjectAccessReview]{name: "selfsubjectaccessreview",
		fresh: func() *authorizationv1.SelfSubjectAccessReview { return &authorizationv1.SelfSubjectAccessReview{} }, answer: cfg.reviewSelfAccess})
	put(authz, "selfsubjectrulesreviews", &question[*authorizationv1.SelfSubjectRulesReview]{name: "selfsubjectrulesreview",
		fresh: func() *authorizationv1.SelfSubjectRulesReview { return &authorizationv1.SelfSubjectRulesReview{} }, answer: cfg.reviewSelfRules})
}

// question is a storage that answers a create and keeps nothing.
type question[T runtime.Object] struct {
	name       string
	namespaced bool
	fresh      func() T
	answer     func(ctx context.Context, obj T) error
}

func (q *question[T]) New() runtime.Object     { return q.fresh() }
func (q *question[T]) Destroy()                {}
func (q *question[T]) NamespaceScoped() bool   { return q.namespaced }
func (q *question[T]) GetSingularName() string { return q.name }

func (q *question[T]) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	asked, ok := obj.(T)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a %s: %T", q.name, obj))
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := q.answer(ctx, asked); err != nil {
		return nil, err
	}
	return asked, nil
}

func (c Config) reviewToken(ctx context.Context, r *authenticationv1.TokenReview) error {
	if r.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	r.Status = authenticationv1.TokenReviewStatus{}
	if c.Token == nil {
		return nil
	}
	// A review that names no audience asks about this server's own.
	wanted := authenticator.Audiences(r.Spec.Audiences)
	if len(wanted) == 0 {
		wanted = c.Audiences
	}
	if len(wanted) > 0 {
		ctx = authenticator.WithAudiences(ctx, wanted)
	}
	answer, ok, err := c.Token.AuthenticateToken(ctx, r.Spec.Token)
	if err != nil {
		r.Status.Error = err.Error()
		return nil
	}
	if !ok || answer == nil || answer.User == nil {
		return nil
	}
	if len(wanted) > 0 && len(answer.Audiences) > 0 && len(wanted.Intersect(answer.Audiences)) == 0 {
		r.Status.Error = "token audiences do not match the requested audiences"
		return nil
	}
	r.Status.Authenticated = true
	r.Status.User = userInfo(answer.User)
	r.Status.Audiences = answer.Audiences
	return nil
}

func reviewSelf(ctx context.Context, r *authenticationv1.SelfSubjectReview) error {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewBadRequest("no user present on request")
	}
	r.Status.UserInfo = userInfo(u)
	return nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[k] = v
	}
	return out
}
