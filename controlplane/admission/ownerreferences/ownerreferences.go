// SPDX-License-Identifier: Apache-2.0

// Package ownerreferences (off by default) lets only those change an object's owners who may delete it, and only those block an owner's
// deletion who may set the owner's finalizers.
package ownerreferences

import (
	"context"
	"fmt"
	"io"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// PluginName is what the plugin is called in flags and configuration.
const PluginName = "OwnerReferencesPermissionEnforcement"

// Register makes the plugin known.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) { return New(), nil })
}

// Plugin is the admission plugin.
type Plugin struct {
	*admission.Handler
	authorizer authorizer.UnconditionalAuthorizer
	mapper     meta.RESTMapper
}

var (
	_ admission.ValidationInterface            = (*Plugin)(nil)
	_ initializer.WantsUnconditionalAuthorizer = (*Plugin)(nil)
	_ initializer.WantsRESTMapper              = (*Plugin)(nil)
)

// New returns the plugin, to be initialised by its Set methods.
func New() *Plugin { return &Plugin{Handler: admission.NewHandler(admission.Create, admission.Update)} }

func (p *Plugin) SetUnconditionalAuthorizer(a authorizer.UnconditionalAuthorizer) { p.authorizer = a }
func (p *Plugin) SetRESTMapper(m meta.RESTMapper)                                 { p.mapper = m }

// ValidateInitialization implements admission.InitializationValidator.
func (p *Plugin) ValidateInitialization() error {
	if p.authorizer == nil || p.mapper == nil {
		return fmt.Errorf("%s needs an authorizer and a REST mapper", PluginName)
	}
	return nil
}

// Validate compares the owners before and after.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" && a.GetSubresource() != "status" {
		return nil
	}
	now, old := owners(a.GetObject()), owners(a.GetOldObject())
	if equality.Semantic.DeepEqual(now, old) {
		return nil
	}
	if a.GetOperation() == admission.Update {
		allowed, reason, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: a.GetUserInfo(), Verb: "delete", Namespace: a.GetNamespace(), APIGroup: a.GetResource().Group, APIVersion: a.GetResource().Version,
			Resource: a.GetResource().Resource, Subresource: a.GetSubresource(), Name: a.GetName(), ResourceRequest: true,
		})
		if allowed != authorizer.DecisionAllow {
			return admission.NewForbidden(a, fmt.Errorf("cannot set an ownerRef on a resource you can't delete: %v, %v", reason, err))
		}
	}
	for _, o := range now {
		if !blocks(o) || slices.ContainsFunc(old, func(b metav1.OwnerReference) bool { return b.UID == o.UID && blocks(b) }) {
			continue
		}
		if err := p.mayBlock(ctx, a, o); err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return nil
}

func (p *Plugin) mayBlock(ctx context.Context, a admission.Attributes, o metav1.OwnerReference) error {
	group, err := schema.ParseGroupVersion(o.APIVersion)
	if err != nil {
		return fmt.Errorf("cannot set blockOwnerDeletion on an owner of version %q: %w", o.APIVersion, err)
	}
	mapping, err := p.mapper.RESTMapping(schema.GroupKind{Group: group.Group, Kind: o.Kind}, group.Version)
	if err != nil {
		return fmt.Errorf("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %s Kind %s: %w", o.APIVersion, o.Kind, err)
	}
	namespace := ""
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace = a.GetNamespace()
	}
	allowed, reason, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: "update", Namespace: namespace, APIGroup: mapping.Resource.Group, APIVersion: mapping.Resource.Version,
		Resource: mapping.Resource.Resource, Subresource: "finalizers", Name: o.Name, ResourceRequest: true,
	})
	if allowed != authorizer.DecisionAllow {
		return fmt.Errorf("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %v, %v", reason, err)
	}
	return nil
}

func owners(obj any) []metav1.OwnerReference {
	if o, ok := obj.(metav1.Object); ok && o != nil {
		return o.GetOwnerReferences()
	}
	return nil
}

func blocks(o metav1.OwnerReference) bool {
	return o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion
}
