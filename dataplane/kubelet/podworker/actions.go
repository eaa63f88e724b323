// SPDX-License-Identifier: Apache-2.0

package podworker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/kubelet/criconfig"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/sync"
)

const (
	retryDelay    = 2 * time.Second // after a failure that the next try may not meet
	sandboxDelay  = time.Second
	callTimeout   = 2 * time.Minute
	minStopPeriod = 2 * time.Second // a container has at least this long to end by itself, whatever a hook or those that end before it used up
)

// launch starts an action unless the same one is under way; w.mu is held.
func (w *worker) launch(ctx context.Context, a sync.Action) {
	key := a.Key()
	if w.busy[key] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w.busy[key] = &action{cancel: cancel, deadline: a.Deadline}
	pod, seen := w.pod, w.seen
	w.actions.Go(func() {
		defer cancel()
		err := w.perform(ctx, pod, seen, a)
		w.mu.Lock()
		delete(w.busy, key)
		w.acted++
		w.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Info("Action failed", "action", a.Verb.String(), "object", key.Object, "err", err)
		}
		w.poke()
	})
}

func (w *worker) perform(ctx context.Context, pod *v1.Pod, seen *observed.Pod, a sync.Action) error {
	switch a.Verb {
	case sync.SetUpVolumes:
		return w.setUpVolumes(ctx, pod, seen)
	case sync.CreateSandbox:
		return w.createSandbox(ctx, pod, seen, a.Attempt)
	case sync.StartContainer:
		return w.startContainer(ctx, pod, seen, a)
	case sync.KillContainer:
		return w.kill(ctx, pod, a)
	case sync.TearDown:
		return w.tearDown(pod)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var err error
	switch a.Verb {
	case sync.StopSandbox:
		err = w.Runtime.StopPodSandbox(ctx, a.ID)
	case sync.RemoveSandbox:
		if err = w.Runtime.StopPodSandbox(ctx, a.ID); err == nil || observed.IsNotFound(err) {
			err = w.Runtime.RemovePodSandbox(ctx, a.ID)
		}
		if err == nil {
			w.removeLogs(pod)
		}
	case sync.ResizeContainer:
		return w.resize(ctx, pod, a.Container, a.ID)
	case sync.RemoveContainer:
		err = w.Runtime.RemoveContainer(ctx, a.ID)
	}
	if observed.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.pause(ctx)
	}
	return err
}

// pause keeps a failing action from being tried at once again.
func (w *worker) pause(ctx context.Context) {
	select {
	case <-time.After(retryDelay):
	case <-ctx.Done():
	}
}

// removeLogs removes the log directory of a pod that is removed.
func (w *worker) removeLogs(pod *v1.Pod) {
	w.mu.Lock()
	removing := w.ending != nil && w.ending.Remove
	w.mu.Unlock()
	if removing && pod.Name != "" && w.Node.PodLogsDir != "" {
		_ = os.RemoveAll(w.Node.LogDir(pod)) // what stays is taken by the collector of old logs
	}
}

func (w *worker) setUpVolumes(ctx context.Context, pod *v1.Pod, seen *observed.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	facts := w.Facts()
	if sandbox := seen.Ready(); sandbox != nil {
		facts.PodIPs = sandbox.IPs
	}
	w.mu.Lock()
	first := !w.volumesReady
	w.mu.Unlock()
	var err error
	reason := "FailedMount"
	if first && w.Prepare != nil {
		if err = w.Prepare(ctx, pod); err != nil {
			reason = "FailedPrepareDynamicResources"
		}
	}
	var refused *Refusal
	if errors.As(err, &refused) {
		w.Event(pod, "", true, refused.Reason, refused.Message)
		w.fail(refused.Reason, refused.Message, 0, nil)
		return nil
	}
	if first && err == nil {
		err = w.Cgroups.Create(pod)
	}
	if err == nil {
		err = w.Volumes.SetUp(ctx, pod, facts)
	}
	w.mu.Lock()
	if err == nil {
		w.volumesReady, w.volumesAt = true, time.Now()
	} else {
		w.volumeRetry = time.Now().Add(retryDelay)
	}
	w.mu.Unlock()
	if err != nil && ctx.Err() == nil && first {
		w.Event(pod, "", true, reason, err.Error())
	}
	return err
}

func (w *worker) tearDown(pod *v1.Pod) error {
	err := w.Volumes.TearDown(pod.UID)
	if err == nil {
		err = w.Cgroups.Remove(pod)
	}
	if err == nil && w.Release != nil {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		err = w.Release(ctx, pod.UID)
	}
	if err != nil {
		w.pause(context.Background())
		return err
	}
	w.mu.Lock()
	w.volumesReady, w.tornDown = false, true
	w.mu.Unlock()
	return nil
}

func (w *worker) createSandbox(ctx context.Context, pod *v1.Pod, seen *observed.Pod, attempt int) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := w.trySandbox(ctx, pod, seen, attempt)
	if err != nil && ctx.Err() == nil {
		w.Event(pod, "", true, "FailedCreatePodSandBox", fmt.Sprintf("Failed to create pod sandbox: %v", err))
	}
	if err != nil {
		w.mu.Lock()
		w.sandboxRetry = time.Now().Add(sandboxDelay)
		w.mu.Unlock()
	}
	return err
}

func (w *worker) trySandbox(ctx context.Context, pod *v1.Pod, seen *observed.Pod, attempt int) error {
	for i := range seen.Sandboxes { // frees addresses and the name of an attempt that died half made
		if err := w.Runtime.StopPodSandbox(ctx, seen.Sandboxes[i].ID); err != nil && !observed.IsNotFound(err) {
			return err
		}
	}
	if len(seen.Sandboxes) > 0 {
		w.Event(pod, "", false, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	hostname, err := criconfig.SandboxHostname(pod, w.ClusterDomain)
	if err != nil {
		return err
	}
	dns, err := w.DNS(pod)
	if err != nil {
		return err
	}
	handler := ""
	if pod.Spec.RuntimeClassName != nil && *pod.Spec.RuntimeClassName != "" {
		if handler, err = w.RuntimeHandler(*pod.Spec.RuntimeClassName); err != nil {
			return err
		}
	}
	userns, err := w.userNS(pod)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(w.Node.LogDir(pod), 0o755); err != nil {
		return err
	}
	if err := w.Cgroups.Create(pod); err != nil {
		return err
	}
	started := time.Now()
	_, err = w.Runtime.RunPodSandbox(ctx, criconfig.Sandbox(pod, attempt, w.Node, hostname, dns, userns), handler)
	if w.OnStage != nil && err == nil {
		w.OnStage("sandbox", time.Since(started))
	}
	return err
}

func (w *worker) userNS(pod *v1.Pod) (*runtimeapi.UserNamespace, error) {
	if w.UserNS == nil {
		return nil, nil
	}
	return w.UserNS(pod)
}

// kill runs the pre-stop hook and stops the container, by the deadline if there is one, else within the pod's grace period.
func (w *worker) kill(ctx context.Context, pod *v1.Pod, a sync.Action) error {
	left := grace(pod)
	if a.Kill.Grace > 0 {
		left = a.Kill.Grace
	}
	if !a.Deadline.IsZero() {
		left = max(time.Until(a.Deadline), 0)
	}
	deadline := time.Now().Add(left)
	name := ""
	if a.Container != nil {
		name = a.Container.Name
	}
	w.Event(pod, name, false, "Killing", a.Kill.Message)
	if c := a.Container; c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil && left > 0 && a.Kill.Reason != sandboxChanged {
		hook, cancel := context.WithTimeout(ctx, left)
		if err := w.hook(hook, pod, c, a.ID, c.Lifecycle.PreStop); err != nil && ctx.Err() == nil {
			w.Event(pod, name, true, "FailedPreStopHook", fmt.Sprintf("PreStopHook failed: %v", err))
		}
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	stop := max(time.Until(deadline), minStopPeriod)
	seconds := int64((stop + time.Second - 1) / time.Second)
	err := w.Runtime.StopContainer(ctx, a.ID, seconds)
	if err != nil && !observed.IsNotFound(err) {
		w.pause(ctx)
		return err
	}
	return nil
}

const sandboxChanged = "SandboxChanged"

// hook runs a lifecycle handler.
func (w *worker) hook(ctx context.Context, pod *v1.Pod, container *v1.Container, id string, handler *v1.LifecycleHandler) error {
	switch {
	case handler.Exec != nil:
		timeout := time.Duration(0)
		if deadline, ok := ctx.Deadline(); ok {
			timeout = time.Until(deadline)
		}
		_, stderr, err := w.Runtime.ExecSync(ctx, id, handler.Exec.Command, timeout)
		if err != nil {
			return fmt.Errorf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %v, message: %q", handler.Exec.Command, container.Name, podName(pod), err, stderr)
		}
		return nil
	case handler.HTTPGet != nil:
		return w.httpHook(ctx, pod, container, handler.HTTPGet)
	case handler.Sleep != nil:
		select {
		case <-time.After(time.Duration(handler.Sleep.Seconds) * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("lifecycle hook has no handler")
}

// messageFile makes an empty file for a container instance's termination message.
func (w *worker) messageFile(pod *v1.Pod, container string, attempt int) (string, error) {
	dir := filepath.Join(w.Volumes.PodDir(pod.UID), "containers", container)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	name := filepath.Join(dir, strconv.Itoa(attempt))
	if err := os.WriteFile(name, nil, 0o666); err != nil {
		return "", err
	}
	return name, os.Chmod(name, 0o666)
}
