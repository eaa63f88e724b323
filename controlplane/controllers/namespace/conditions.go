// SPDX-License-Identifier: Apache-2.0

package namespace

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditions returns old brought up to date: the five conditions that tell why a namespace is still there. A condition is true when it holds the namespace.
func (o *outcome) conditions(old []corev1.NamespaceCondition, now metav1.Time) []corev1.NamespaceCondition {
	out := slices.Clone(old)
	set := func(t corev1.NamespaceConditionType, holds bool, reason, message, freeReason, freeMessage string) {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: now}
		if !holds {
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, freeReason, freeMessage
		}
		i := slices.IndexFunc(out, func(x corev1.NamespaceCondition) bool { return x.Type == t })
		switch {
		case i < 0:
			out = append(out, c)
		case out[i].Status == c.Status:
			c.LastTransitionTime = out[i].LastTransitionTime
			fallthrough
		default:
			out[i] = c
		}
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, o.discovery != nil, "DiscoveryFailed", text(o.discovery), "ResourcesDiscovered", "All types of resources are known")
	set(corev1.NamespaceDeletionGVParsingFailure, o.parsing != nil, "GroupVersionParsingFailed", text(o.parsing), "ParsedGroupVersions", "All group versions are valid")
	set(corev1.NamespaceDeletionContentFailure, o.deletion != nil, "ContentDeletionFailed", text(o.deletion), "ContentDeleted", "All content was asked to go")
	set(corev1.NamespaceContentRemaining, len(o.remaining) > 0, "SomeResourcesRemain", o.remainingText(), "ContentRemoved", "All content is gone")
	set(corev1.NamespaceFinalizersRemaining, len(o.finalizers) > 0, "SomeFinalizersRemain", o.finalizersText(), "ContentHasNoFinalizers", "No finalizer holds content")
	return out
}

func (o *outcome) remainingText() string {
	var parts []string
	for gvr, n := range o.remaining {
		parts = append(parts, fmt.Sprintf("%s has %d resource instances", gvr.GroupResource(), n))
	}
	slices.Sort(parts)
	return "Some resources are remaining: " + strings.Join(parts, ", ")
}

func (o *outcome) finalizersText() string {
	var parts []string
	for name, n := range o.finalizers {
		parts = append(parts, fmt.Sprintf("%s in %d resource instances", name, n))
	}
	slices.Sort(parts)
	return "Some content in the namespace has finalizers remaining: " + strings.Join(parts, ", ")
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
