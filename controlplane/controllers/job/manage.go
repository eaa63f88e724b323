// SPDX-License-Identifier: Apache-2.0

package job

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	burst         = 500
	indexEnv      = "JOB_COMPLETION_INDEX"
	maxNameLength = 63 // of a pod's name as a host name
)

// manage creates and deletes pods until as many are active as the Job wants now. settled says that the cache shows all earlier writes.
func (s *state) manage(ctx context.Context, settled bool) error {
	if !settled {
		return nil
	}
	if s.verdict != nil || suspended(s.job) {
		return s.remove(ctx, s.active)
	}
	remove := s.misplaced()
	keep := controller.Filter(s.active, func(p *corev1.Pod) bool { return !slices.Contains(remove, p) })
	want := s.wanted(len(keep))
	if surplus := len(keep) - want; surplus > 0 {
		controller.SortForDeletion(keep, nil, s.now)
		remove = append(remove, keep[:surplus]...)
	}
	if len(remove) > 0 {
		return s.remove(ctx, remove)
	}
	missing := want - len(keep)
	if s.waitsForEnd() {
		missing -= s.terminating // their places are not free yet
	}
	if missing <= 0 {
		return nil
	}
	return s.create(ctx, min(missing, burst))
}

// wanted is how many pods should be active, active being so many.
func (s *state) wanted(active int) int {
	parallelism := int(ptr.Deref(s.job.Spec.Parallelism, 1))
	if s.job.Spec.Completions == nil {
		if s.succeeded > 0 {
			return min(active, parallelism) // the work queue is empty: the others finish what they have
		}
		return parallelism
	}
	left := int(*s.job.Spec.Completions - s.succeeded)
	if s.perIndex() {
		left -= s.failed.len()
	}
	return max(0, min(left, parallelism))
}

// misplaced are active pods of an indexed Job that no index needs: twins, and those of indexes that do not exist, have succeeded or have failed.
func (s *state) misplaced() []*corev1.Pod {
	if !s.indexed {
		return nil
	}
	var out []*corev1.Pod
	byIndex := map[int]*corev1.Pod{}
	for _, pod := range s.active {
		i := indexOf(pod)
		switch other := byIndex[i]; {
		case i < 0 || i >= s.completions || s.done.has(i) || s.perIndex() && s.failed.has(i):
			out = append(out, pod)
		case other == nil:
			byIndex[i] = pod
		default: // the one that got further stays
			pair := []*corev1.Pod{pod, other}
			controller.SortForDeletion(pair, nil, s.now)
			out, byIndex[i] = append(out, pair[0]), pair[1]
		}
	}
	return out
}

func (s *state) remove(ctx context.Context, pods []*corev1.Pod) error {
	pods = pods[:min(len(pods), burst)]
	if len(pods) == 0 {
		return nil
	}
	uids := make([]types.UID, len(pods))
	for i, pod := range pods {
		uids[i] = pod.UID
	}
	s.expect.Expect(s.key, 0, uids...)
	gone := map[types.UID]bool{}
	var firstErr error
	for i, err := range controller.Parallel(len(pods), func(i int) error { return s.podIO.Delete(ctx, pods[i], s.job) }) {
		switch {
		case err == nil:
			gone[uids[i]] = true
		default:
			s.expect.Deleted(s.key, uids[i])
			if firstErr == nil && !apierrors.IsNotFound(err) {
				firstErr = err
			}
		}
	}
	s.active = controller.Filter(s.active, func(p *corev1.Pod) bool { return !gone[p.UID] })
	s.terminating += len(gone)
	return firstErr
}

func (s *state) create(ctx context.Context, n int) error {
	var pods []*corev1.Pod
	if s.indexed {
		pods = s.indexedPods(n)
	} else {
		if wait := s.backOff(); wait > 0 {
			s.wait = wait
			return nil
		}
		for range n {
			pods = append(pods, s.newPod())
		}
	}
	if len(pods) == 0 {
		return nil
	}
	s.expect.Expect(s.key, len(pods))
	created := make([]*corev1.Pod, len(pods))
	ok, err := controller.SlowStart(len(pods), func(i int) (err error) {
		created[i], err = s.podIO.Create(ctx, pods[i], s.job)
		return err
	})
	if failed := len(pods) - ok; failed > 0 {
		s.expect.CreatedN(s.key, failed)
	}
	for _, pod := range created {
		if pod != nil {
			s.active = append(s.active, pod)
		}
	}
	return err
}

func (s *state) newPod() *corev1.Pod {
	pod := controller.FromTemplate(&s.job.Spec.Template, s.job, metav1.NewControllerRef(s.job, gvk))
	if !tracked(pod) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	return pod
}

// indexedPods are pods for the lowest n indexes that need one and may have one now.
func (s *state) indexedPods(n int) []*corev1.Pod {
	taken, last := map[int]bool{}, map[int]*corev1.Pod{}
	for _, pod := range s.active {
		taken[indexOf(pod)] = true
	}
	for _, pod := range s.pods {
		i := indexOf(pod)
		if pod.DeletionTimestamp != nil && !controller.Finished(pod) && s.waitsForEnd() {
			taken[i] = true
		}
		if s.perIndex() && s.hasFailed(pod) && (last[i] == nil || later(pod, last[i])) {
			last[i] = pod
		}
	}
	if !s.perIndex() {
		if wait := s.backOff(); wait > 0 {
			s.wait = wait
			return nil
		}
	}
	var out []*corev1.Pod
	for i := 0; i < s.completions && len(out) < n; i++ {
		if taken[i] || s.done.has(i) || s.perIndex() && s.failed.has(i) {
			continue
		}
		fails, ignored := int32(0), int32(0)
		if before := last[i]; before != nil {
			if wait := s.indexBackOff(before); wait > 0 {
				if s.wait == 0 || wait < s.wait {
					s.wait = wait
				}
				continue
			}
			fails, ignored = indexFailures(before)
			if action, _ := s.failurePolicy(before); action == batchv1.PodFailurePolicyActionIgnore {
				ignored++
			} else {
				fails++
			}
		}
		out = append(out, s.indexedPod(i, fails, ignored))
	}
	return out
}

func (s *state) indexedPod(index int, fails, ignored int32) *corev1.Pod {
	pod, text := s.newPod(), strconv.Itoa(index)
	pod.Annotations, pod.Labels = maps.Clone(pod.Annotations), maps.Clone(pod.Labels)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Annotations[batchv1.JobCompletionIndexAnnotation], pod.Labels[batchv1.JobCompletionIndexAnnotation] = text, text
	if s.perIndex() {
		pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(fails))
		if ignored > 0 {
			pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(ignored))
		}
	}
	host := fmt.Sprintf("%s-%d", s.job.Name, index)
	pod.Spec.Hostname = host
	prefix := host + "-"
	if room := maxNameLength - 5; len(prefix) > room { // five characters make it unique
		suffix := "-" + text + "-"
		prefix = prefix[:room-len(suffix)] + suffix
	}
	pod.GenerateName = prefix
	add := func(cs []corev1.Container) {
		for i := range cs {
			if slices.ContainsFunc(cs[i].Env, func(e corev1.EnvVar) bool { return e.Name == indexEnv }) {
				continue
			}
			cs[i].Env = append(cs[i].Env, corev1.EnvVar{Name: indexEnv, ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
			}})
		}
	}
	add(pod.Spec.InitContainers)
	add(pod.Spec.Containers)
	return pod
}

// indexFailures are the failures, counted and ignored, that came before pod on its index.
func indexFailures(pod *corev1.Pod) (fails, ignored int32) {
	read := func(key string) int32 {
		n, err := strconv.ParseInt(cmp.Or(pod.Annotations[key], "0"), 10, 32)
		if err != nil {
			return 0
		}
		return int32(n)
	}
	return read(batchv1.JobIndexFailureCountAnnotation), read(batchv1.JobIndexIgnoredFailureCountAnnotation)
}
