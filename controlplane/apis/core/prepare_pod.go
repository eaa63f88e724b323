// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/util/qos"
)

// preparePod starts a pod's life: pending, with its quality of service settled for good, and held back while it has scheduling gates.
func preparePod(_ context.Context, p *v1.Pod) {
	p.Status = v1.PodStatus{Phase: v1.PodPending, QOSClass: qos.ComputePodQOS(p)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []v1.PodCondition{{
			Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	mergeMatchLabelKeys(p)
}

// preparePodStatus keeps what a status writer cannot know better than the server.
func preparePodStatus(_ context.Context, p, old *v1.Pod) {
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = old.Status.QOSClass
	}
}

// mergeMatchLabelKeys turns matchLabelKeys and mismatchLabelKeys of affinity terms and spread constraints into requirements on the values that the
// pod itself has (KEP-3633, KEP-3243), so that the scheduler need not look them up.
func mergeMatchLabelKeys(p *v1.Pod) {
	merge := func(selector *metav1.LabelSelector, op metav1.LabelSelectorOperator, keys []string) {
		for _, key := range keys {
			value, ok := p.Labels[key]
			if !ok || selector == nil {
				continue
			}
			want := metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}}
			there := slices.ContainsFunc(selector.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool {
				return r.Key == want.Key && r.Operator == want.Operator && slices.Equal(r.Values, want.Values)
			})
			if !there {
				selector.MatchExpressions = append(selector.MatchExpressions, want)
			}
		}
	}
	term := func(t *v1.PodAffinityTerm) {
		merge(t.LabelSelector, metav1.LabelSelectorOpIn, t.MatchLabelKeys)
		merge(t.LabelSelector, metav1.LabelSelectorOpNotIn, t.MismatchLabelKeys)
	}
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			eachTerm(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, term)
		}
		if a.PodAntiAffinity != nil {
			eachTerm(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, term)
		}
	}
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		merge(c.LabelSelector, metav1.LabelSelectorOpIn, c.MatchLabelKeys)
	}
}

func eachTerm(required []v1.PodAffinityTerm, preferred []v1.WeightedPodAffinityTerm, f func(*v1.PodAffinityTerm)) {
	for i := range required {
		f(&required[i])
	}
	for i := range preferred {
		f(&preferred[i].PodAffinityTerm)
	}
}

// podGracePeriod is how long a deleted pod gets to end by itself. A pod that runs nowhere or has ended goes at once.
func podGracePeriod(p *v1.Pod, asked *int64) *int64 {
	period := int64(v1.DefaultTerminationGracePeriodSeconds)
	switch {
	case asked != nil:
		period = *asked
	case p.Spec.TerminationGracePeriodSeconds != nil:
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || p.Status.Phase == v1.PodFailed || p.Status.Phase == v1.PodSucceeded {
		period = 0
	}
	if period < 0 {
		period = 1
	}
	return &period
}
