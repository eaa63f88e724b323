// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverconfig "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
)

func validate(compiler authorizationcel.Compiler, order []apiserverconfig.AuthorizerConfiguration) field.ErrorList {
	return validation.ValidateAuthorizationConfiguration(compiler, nil, &apiserverconfig.AuthorizationConfiguration{Authorizers: order},
		sets.New("Node", "RBAC", string(apiserverconfig.TypeWebhook)), sets.New(string(apiserverconfig.TypeWebhook)))
}
