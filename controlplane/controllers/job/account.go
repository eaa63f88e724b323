// SPDX-License-Identifier: Apache-2.0

package job

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// maxUncounted bounds the list in the status.
const maxUncounted = 500

// state is one sync of one Job. job is a copy whose status becomes the new one.
type state struct {
	*loop
	key  string
	job  *batchv1.Job
	was  batchv1.JobStatus
	now  time.Time
	pods []*corev1.Pod // all that the Job controls

	indexed              bool
	completions          int // of an indexed Job
	done, failed         indexes
	active               []*corev1.Pod
	terminating          int
	counted              []*corev1.Pod // recorded by this status: they may lose their finalizer once it is written
	pendingAccounting    bool          // pods are recorded that are not counted yet
	succeeded, failTotal int32         // counted and uncounted
	policyFailure        string        // message of a FailJob rule that matched
	verdict              *batchv1.JobCondition
	events               []event
	wait                 time.Duration // until another look is needed, 0 for none
}

type event struct{ kind, reason, message string }

func (l *loop) newState(ctx context.Context, key string, job *batchv1.Job) (*state, error) {
	s := &state{
		loop: l, key: key, job: job, was: *job.Status.DeepCopy(), now: l.c.Clock.Now(),
		indexed: job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion && job.Spec.Completions != nil,
	}
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector of job %s: %w", key, err)
	}
	claim := controller.Claim[*corev1.Pod]{
		Owner: job, Kind: gvk, Selector: selector, Patch: l.podIO.Patch, Finalizers: []string{batchv1.JobTrackingFinalizer},
		Filter: controller.Active,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return l.c.Client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		},
	}
	if selector.Empty() {
		s.pods = l.podsOf.Of(job)
	} else if s.pods, err = claim.Run(ctx, l.podsOf.Candidates(job)); err != nil {
		return nil, err
	}
	if s.indexed {
		s.completions = int(*job.Spec.Completions)
		s.done = parseIndexes(job.Status.CompletedIndexes, s.completions)
		s.failed = parseIndexes(ptr.Deref(job.Status.FailedIndexes, ""), s.completions)
	}
	if job.Status.UncountedTerminatedPods == nil {
		job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	return s, nil
}

// account moves finished pods one step: from seen to uncounted, from uncounted to counted. It also sorts out which pods are active.
func (s *state) account() {
	un := s.job.Status.UncountedTerminatedPods
	byUID := map[types.UID]*corev1.Pod{}
	for _, pod := range s.pods {
		byUID[pod.UID] = pod
	}
	flush := func(list []types.UID, counter *int32) []types.UID {
		return controller.Filter(list, func(uid types.UID) bool {
			if pod := byUID[uid]; pod != nil && tracked(pod) {
				s.counted = append(s.counted, pod) // its finalizer is still to be removed
				return true
			}
			*counter++
			return false
		})
	}
	un.Failed = flush(un.Failed, &s.job.Status.Failed)
	un.Succeeded = flush(un.Succeeded, &s.job.Status.Succeeded)

	var ended []*corev1.Pod // newly, in the order of their end, for the back-off
	for _, pod := range s.pods {
		switch {
		case pod.DeletionTimestamp != nil && !controller.Finished(pod):
			s.terminating++
		case !controller.Finished(pod):
			s.active = append(s.active, pod)
		}
		if !tracked(pod) || slices.Contains(un.Failed, pod.UID) || slices.Contains(un.Succeeded, pod.UID) {
			continue
		}
		if pod.Status.Phase == corev1.PodSucceeded || s.hasFailed(pod) {
			ended = append(ended, pod)
		}
	}
	slices.SortFunc(ended, func(a, b *corev1.Pod) int {
		return cmp.Or(s.endOf(a).Compare(s.endOf(b)), cmp.Compare(a.Name, b.Name))
	})
	for _, pod := range ended {
		if len(un.Failed)+len(un.Succeeded) >= maxUncounted {
			break // the rest follows when these are counted
		}
		s.count(pod, un)
	}
	s.pendingAccounting = len(un.Failed)+len(un.Succeeded) > 0
	s.succeeded = s.job.Status.Succeeded + int32(len(un.Succeeded))
	if s.indexed {
		s.succeeded = int32(s.done.len())
		s.job.Status.Succeeded, s.job.Status.CompletedIndexes = s.succeeded, s.done.String()
		if s.perIndex() {
			s.job.Status.FailedIndexes = ptr.To(s.failed.String())
		}
	}
	s.failTotal = s.job.Status.Failed + int32(len(un.Failed))
}

// count records one newly ended pod.
func (s *state) count(pod *corev1.Pod, un *batchv1.UncountedTerminatedPods) {
	index := -1
	if s.indexed {
		index = indexOf(pod)
	}
	if pod.Status.Phase == corev1.PodSucceeded {
		s.note(pod, true)
		switch {
		case !s.indexed:
			un.Succeeded = append(un.Succeeded, pod.UID)
		case index >= 0 && index < s.completions:
			s.done = s.done.with(index) // a set: recording an index twice does no harm, so it needs no UID
		}
		s.counted = append(s.counted, pod)
		return
	}
	if suspended(s.job) && pod.DeletionTimestamp != nil {
		s.counted = append(s.counted, pod) // we ended it; that is no failure of the Job's
		return
	}
	action, message := s.failurePolicy(pod)
	if action == batchv1.PodFailurePolicyActionFailJob && s.policyFailure == "" {
		s.policyFailure = message
	}
	if s.perIndex() && index >= 0 && index < s.completions {
		if fails, _ := indexFailures(pod); action == batchv1.PodFailurePolicyActionFailIndex ||
			action != batchv1.PodFailurePolicyActionIgnore && fails >= *s.job.Spec.BackoffLimitPerIndex {
			if !s.done.has(index) {
				s.failed = s.failed.with(index)
			}
		} else if !s.superseded(pod, index) {
			// The pod carries its index's failure count to its successor, and stays until there is one.
			return
		}
	}
	if action == batchv1.PodFailurePolicyActionIgnore {
		s.noteIgnored(pod)
	} else {
		s.note(pod, false)
		un.Failed = append(un.Failed, pod.UID)
	}
	s.counted = append(s.counted, pod)
}

// superseded reports whether index needs no other pod on account of pod: it has a later one, or is done, or the Job is ending.
func (s *state) superseded(pod *corev1.Pod, index int) bool {
	if s.done.has(index) || s.failed.has(index) || target(s.job) != nil || suspended(s.job) {
		return true
	}
	for _, other := range s.pods {
		if other.UID != pod.UID && indexOf(other) == index && other.Status.Phase != corev1.PodSucceeded && later(other, pod) {
			return true
		}
	}
	return false
}

// later reports whether a replaced b on their index: it carries more failures, or it is a twin that was made later.
func later(a, b *corev1.Pod) bool {
	fa, ia := indexFailures(a)
	fb, ib := indexFailures(b)
	return cmp.Or(cmp.Compare(fa+ia, fb+ib), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID)) > 0
}

// hasFailed: a pod being deleted counts as failed at once, unless the Job replaces only what has really ended.
func (s *state) hasFailed(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded && !s.waitsForEnd()
}

func (s *state) waitsForEnd() bool {
	if p := s.job.Spec.PodReplacementPolicy; p != nil {
		return *p == batchv1.Failed
	}
	return s.job.Spec.PodFailurePolicy != nil
}

func (s *state) perIndex() bool { return s.indexed && s.job.Spec.BackoffLimitPerIndex != nil }

func tracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

// release takes the finalizer off pods that need it no longer.
func (s *state) release(ctx context.Context, pods []*corev1.Pod) error {
	pods = controller.Filter(pods, tracked)
	for _, err := range controller.Parallel(len(pods), func(i int) error { return s.untrack(ctx, pods[i]) }) {
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) untrack(ctx context.Context, pod *corev1.Pod) error {
	err := l.untrackIf(ctx, pod, map[string]any{"uid": pod.UID})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) && !stillThere(ctx, l, pod) {
		return nil
	}
	return err
}

// untrackIf takes the finalizer off pod if the pod's metadata are such as condition says; otherwise it returns a Conflict.
func (l *loop) untrackIf(ctx context.Context, pod *corev1.Pod, condition map[string]any) error {
	condition["$deleteFromPrimitiveList/finalizers"] = []string{batchv1.JobTrackingFinalizer}
	patch, err := json.Marshal(map[string]any{"metadata": condition})
	if err != nil {
		return err
	}
	return l.podIO.Patch(ctx, pod, patch)
}

func stillThere(ctx context.Context, l *loop, pod *corev1.Pod) bool {
	live, err := l.c.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	return err == nil && live.UID == pod.UID
}

func (s *state) writeStatus(ctx context.Context) error {
	s.job.Status.Active, s.job.Status.Terminating = int32(len(s.active)), ptr.To(int32(s.terminating))
	s.job.Status.Ready = ptr.To(int32(len(controller.Filter(s.active, controller.Ready))))
	if !equality.Semantic.DeepEqual(s.was, s.job.Status) {
		updated, err := s.c.Client.BatchV1().Jobs(s.job.Namespace).UpdateStatus(ctx, s.job, metav1.UpdateOptions{})
		if err != nil {
			return controller.IgnoreNotFound(err)
		}
		s.writes.Wrote(s.key, updated)
	}
	for _, e := range s.events {
		s.c.Events.Event(s.job, e.kind, e.reason, e.message)
	}
	return nil
}
