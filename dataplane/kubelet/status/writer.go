// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

const writers = 8

// Writer sends statuses. Only the newest status of a pod is sent; a failed write is tried again with growing delay.
type Writer struct {
	client kubernetes.Interface
	// Mirror returns the API's pod that shows a pod which is not from the API: the pod itself for all others, nil while there is none.
	Mirror func(*v1.Pod) *v1.Pod
	queue  workqueue.TypedRateLimitingInterface[types.UID]

	mu   sync.Mutex
	want map[types.UID]*entry
}

type entry struct {
	pod    *v1.Pod // as the API had it
	status v1.PodStatus
	sent   *v1.PodStatus // what was last written, until the watch shows it
	sentAt uint64        // its resource version
	remove bool
}

// NewWriter returns a writer that does nothing until Run.
func NewWriter(client kubernetes.Interface) *Writer {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](100*time.Millisecond, 30*time.Second)
	return &Writer{client: client, queue: workqueue.NewTypedRateLimitingQueue(limiter), want: map[types.UID]*entry{}}
}

// Set makes status the one to have for the pod. With remove the pod is deleted once the status is written: it is over.
func (w *Writer) Set(pod *v1.Pod, status v1.PodStatus, remove bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.want[pod.UID]
	if e == nil {
		e = &entry{}
		w.want[pod.UID] = e
	}
	uid := pod.UID
	if w.Mirror != nil {
		if pod = w.Mirror(pod); pod == nil {
			return // its first sight brings the next status
		}
	}
	current := &pod.Status
	if e.sent != nil && version(pod) >= e.sentAt {
		e.sent = nil
	}
	if e.sent != nil {
		current = e.sent
	}
	same := equality.Semantic.DeepEqual(current, &status)
	e.pod, e.status, e.remove = pod, status, e.remove || remove
	if !same || remove {
		w.queue.Add(uid)
	}
}

// Forget drops what is known of a pod that the API no longer has.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.want, uid)
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	var running sync.WaitGroup
	for range writers {
		running.Go(func() {
			for w.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	w.queue.ShutDown()
	running.Wait()
}

func (w *Writer) next(ctx context.Context) bool {
	uid, stop := w.queue.Get()
	if stop {
		return false
	}
	defer w.queue.Done(uid)
	if err := w.write(ctx, uid); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).V(2).Info("Status of a pod was not written, trying again", "uid", uid, "err", err)
		w.queue.AddRateLimited(uid)
		return true
	}
	w.queue.Forget(uid)
	return true
}

func (w *Writer) write(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	e := w.want[uid]
	if e == nil {
		w.mu.Unlock()
		return nil
	}
	pod, status, remove := e.pod, e.status, e.remove
	before := &pod.Status
	if e.sent != nil {
		before = e.sent
	}
	w.mu.Unlock()

	if !equality.Semantic.DeepEqual(before, &status) {
		patch, err := Patch(pod, before, &status)
		if err != nil {
			return err
		}
		written, err := w.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case apierrors.IsConflict(err) && w.replaced(ctx, pod):
			return nil
		case err != nil:
			return fmt.Errorf("write status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		w.mu.Lock()
		e.sent, e.sentAt = &status, version(written)
		w.mu.Unlock()
	}
	if !remove {
		return nil
	}
	now := int64(0)
	err := w.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s that has ended: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// replaced tells whether the API has no such pod any more, or another one of its name. A conflict alone does not say so: the server gives one as
// well when others write the pod all the time.
func (w *Writer) replaced(ctx context.Context, pod *v1.Pod) bool {
	live, err := w.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil {
		return apierrors.IsNotFound(err)
	}
	return live.UID != pod.UID
}

// Patch is the strategic merge patch from one status to another, bound to the pod's UID.
func Patch(pod *v1.Pod, before, after *v1.PodStatus) ([]byte, error) {
	oldData, err := json.Marshal(v1.Pod{Status: *before})
	if err != nil {
		return nil, err
	}
	newData, err := json.Marshal(v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Status: *after}) // the UID is a precondition
	if err != nil {
		return nil, err
	}
	return strategicpatch.CreateTwoWayMergePatch(oldData, newData, v1.Pod{})
}

// version is a pod's resource version as a number; they grow with every write.
func version(pod *v1.Pod) uint64 {
	n, err := strconv.ParseUint(pod.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
