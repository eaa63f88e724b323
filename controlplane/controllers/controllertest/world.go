// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"cmp"
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// World is an API in memory, a process of controllers, and the test's hands on everything else: it plays scheduler and kubelets one step at a time.
type World struct {
	T      *testing.T
	API    *API
	Client kubernetes.Interface
	P      *Process
	// Settle is how long the world waits after every step; controllers may wait as long for more events.
	Settle time.Duration
	news   []func(*controller.Context) controller.Controller
}

// NewWorld starts controllers on an API that holds objs. Call it in a synctest bubble, and Close before it ends.
func NewWorld(t *testing.T, objs []runtime.Object, news ...func(*controller.Context) controller.Controller) *World {
	w := &World{T: t, API: NewAPI(t, objs...), Settle: 300 * time.Millisecond, news: news}
	w.Client = w.API.Client(nil)
	w.Restart()
	return w
}

// Restart ends the process, if one runs, and starts another, which knows only what the API holds.
func (w *World) Restart() {
	w.Close()
	w.P = Start(w.T, w.API, w.news...)
	w.Wait()
}

// Close ends the process.
func (w *World) Close() {
	if w.P != nil {
		w.P.Stop()
	}
	w.P = nil
}

// Wait lets the controllers work until they wait for the world.
func (w *World) Wait() {
	synctest.Wait()
	time.Sleep(w.Settle)
	synctest.Wait()
}

// Pods lists all pods, in the order of their names.
func (w *World) Pods() []*corev1.Pod {
	w.T.Helper()
	list, err := w.Client.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	w.Check(err)
	var out []*corev1.Pod
	for i := range list.Items {
		out = append(out, &list.Items[i])
	}
	return out
}

// Step does to pod what scheduler and kubelet would do next, and reports whether there was anything to do.
func (w *World) Step(pod *corev1.Pod) bool {
	w.T.Helper()
	ctx, api := context.Background(), w.Client.CoreV1().Pods(pod.Namespace)
	switch {
	case pod.DeletionTimestamp != nil && !controller.Finished(pod) && pod.Spec.NodeName != "":
		w.End(pod, corev1.PodFailed, 137)
	case pod.DeletionTimestamp != nil:
		if err := api.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); controller.IgnoreNotFound(err) != nil {
			w.T.Fatal(err)
		}
	case pod.Spec.NodeName == "":
		w.Check(api.Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}, Target: corev1.ObjectReference{Name: cmp.Or(pinned(pod), NodeName(0))},
		}, metav1.CreateOptions{}))
	case !controller.Ready(pod) && !controller.Finished(pod):
		_, err := api.UpdateStatus(ctx, Running(pod, "10.0.0.1", time.Now()), metav1.UpdateOptions{})
		w.Check(err)
	default:
		return false
	}
	w.Wait()
	return true
}

// End makes pod report that its containers have exited with code.
func (w *World) End(pod *corev1.Pod, phase corev1.PodPhase, code int32) {
	w.T.Helper()
	_, err := w.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(context.Background(), Ended(pod, phase, code, time.Now()), metav1.UpdateOptions{})
	w.Check(err)
	w.Wait()
}

// Rest plays scheduler and kubelets until nothing moves.
func (w *World) Rest() {
	w.T.Helper()
	w.Wait()
	for range 300 {
		moved := false
		for _, pod := range w.Pods() {
			moved = w.Step(pod) || moved
		}
		if w.Wait(); !moved {
			return
		}
	}
	w.T.Fatal("the world does not come to rest")
}

// Check fails the test on an error.
func (w *World) Check(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}
