// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"cmp"
	"context"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	clienttesting "k8s.io/client-go/testing"
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
	// Refuse is Process.Refuse of the process and of those that Restart starts.
	Refuse func(clienttesting.Action) error
	lags   bool
	writes map[string]int     // of the process, tried ones included, by "verb resource"
	ready  map[types.UID]bool // what was ready when know was called
	news   []func(*controller.Context) controller.Controller
}

// NewWorld starts controllers on an API that holds objs. Call it in a synctest bubble, and Close before it ends.
func NewWorld(t *testing.T, objs []runtime.Object, news ...func(*controller.Context) controller.Controller) *World {
	w := &World{T: t, API: NewAPI(t, objs...), Settle: 300 * time.Millisecond, news: news, writes: map[string]int{}}
	w.Client = w.API.Client(nil)
	w.Restart()
	return w
}

// Restart ends the process, if one runs, and starts another, which knows only what the API holds.
func (w *World) Restart() {
	w.Close()
	w.P = &Process{left: -1, Refuse: w.refuse}
	w.P.start(w.T, w.API, w.news...)
	w.P.Lag.Hold(w.lags)
	w.Wait()
}

// Lag makes the caches of the process, and of those that Restart starts, show nothing new until Pass or CatchUp.
func (w *World) Lag(on bool) {
	w.T.Helper()
	w.CatchUp()
	w.lags = on
	w.P.Lag.Hold(on)
}

// Pass lets the process's caches see n events, each the next one of a type that rnd chooses.
func (w *World) Pass(rnd *rand.Rand, n int) {
	for range n {
		if !w.P.Lag.Pass(rnd.Intn) {
			return
		}
		synctest.Wait()
	}
}

// CatchUp lets the process's caches see all events, and those that its own reactions cause.
func (w *World) CatchUp() {
	w.T.Helper()
	for range 10_000 {
		for w.P.Lag.Pass(func(int) int { return 0 }) {
		}
		if w.Wait(); w.P.Lag.Pending() == 0 {
			w.know()
			return
		}
	}
	w.T.Fatal("the controllers write for ever")
}

func (w *World) refuse(action clienttesting.Action) error {
	w.writes[action.GetVerb()+" "+action.GetResource().Resource]++
	if w.Refuse == nil {
		return nil
	}
	return w.Refuse(action)
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
	if !w.lags {
		w.know()
	}
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

// Calm brings the controllers to where nothing is under way: caught up, and not crashed.
func (w *World) Calm() {
	w.T.Helper()
	if w.CatchUp(); w.P.Crashed() {
		w.Restart()
		w.CatchUp()
	}
}

// KnownReady reports whether pod has been ready since the controllers last knew everything: they can be blamed only for what they could know.
func (w *World) KnownReady(pod *corev1.Pod) bool { return controller.Ready(pod) && w.ready[pod.UID] }

// know notes that everything is known.
func (w *World) know() {
	w.ready = map[types.UID]bool{}
	for _, pod := range w.Pods() {
		w.ready[pod.UID] = controller.Ready(pod)
	}
}

// Pod returns pod as it is now, nil when it is gone.
func (w *World) Pod(pod *corev1.Pod) *corev1.Pod {
	w.T.Helper()
	now, err := w.Client.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && now.UID != pod.UID {
		return nil
	}
	w.Check(err)
	return now
}

// Step does to pod what scheduler and kubelet would do next, and reports whether there was anything to do.
func (w *World) Step(pod *corev1.Pod) bool {
	w.T.Helper()
	ctx, api := context.Background(), w.Client.CoreV1().Pods(pod.Namespace)
	if pod = w.Pod(pod); pod == nil {
		return true // somebody else's step
	}
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
	w.CatchUp()
	for range 300 {
		moved := false
		for _, pod := range w.Pods() {
			moved = w.Step(pod) || moved
		}
		if w.CatchUp(); !moved {
			return
		}
	}
	w.T.Fatal("the world does not come to rest")
}

// Seeds runs test in a bubble of virtual time for each of n seeds, as subtests named after them. FAIRLEAD_SEEDS in the environment sets another n.
func Seeds(t *testing.T, n int64, test func(*testing.T, *rand.Rand)) {
	if more, err := strconv.ParseInt(os.Getenv("FAIRLEAD_SEEDS"), 10, 64); err == nil {
		n = more
	}
	for seed := range n {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, rand.New(rand.NewSource(seed))) })
		})
	}
}

// After lets d pass, with the controllers at work.
func (w *World) After(d time.Duration) {
	time.Sleep(d)
	w.Wait()
}

// Writes is how often the controllers have tried to write, "create pods" for example. Call it while they wait for the world.
func (w *World) Writes(what string) int { return w.writes[what] }

// Must returns v. It panics on an error, for calls that only a broken test makes fail.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Check fails the test on an error.
func (w *World) Check(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}
