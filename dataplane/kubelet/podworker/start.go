// SPDX-License-Identifier: Apache-2.0

package podworker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/criconfig"
	"github.com/fairlead/fairlead/dataplane/kubelet/images"
	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/podenv"
	"github.com/fairlead/fairlead/dataplane/kubelet/probes"
	"github.com/fairlead/fairlead/dataplane/kubelet/status"
	"github.com/fairlead/fairlead/dataplane/kubelet/sync"
)

// waitError is a failure with the reason a container's status shows.
type waitError struct {
	reason string
	retry  time.Time
	err    error
}

func (e *waitError) Error() string { return e.reason + ": " + e.err.Error() }
func (e *waitError) Unwrap() error { return e.err }

// startContainer brings one container to run, and says in the pod's status why when it cannot.
func (w *worker) startContainer(ctx context.Context, pod *v1.Pod, seen *observed.Pod, a sync.Action) error {
	name := a.Container.Name
	err := w.tryStart(ctx, pod, seen, a)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		delete(w.waiting, name)
		return nil
	}
	retry := time.Now().Add(retryDelay)
	var wait *waitError
	if errors.As(err, &wait) {
		w.waiting[name] = v1.ContainerStateWaiting{Reason: wait.reason, Message: wait.err.Error()}
		if wait.reason == images.ReasonBackOff {
			retry = wait.retry
		}
	}
	w.memoryOf(name).Retry = retry
	return err
}

// tryStart makes an instance of the container, unless an earlier agent left one that was not started yet, starts it, and runs its post-start hook.
func (w *worker) tryStart(ctx context.Context, pod *v1.Pod, seen *observed.Pod, a sync.Action) error {
	container := a.Container
	id, last, began := a.Instance, seen.Previous(container.Name), time.Now()
	if id == "" {
		config, sandbox, err := w.prepare(ctx, pod, seen, a)
		if err != nil {
			return err
		}
		last, began = seen.Newest(container.Name), time.Now()
		if id, err = w.Runtime.CreateContainer(ctx, a.ID, config, sandbox); err != nil {
			if ctx.Err() == nil {
				w.Event(pod, container.Name, true, "Failed", "Error: "+err.Error())
			}
			return &waitError{reason: "CreateContainerError", err: err}
		}
		w.Event(pod, container.Name, false, "Created", "Container created")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// Once asked for, a start is waited for, also by a pod that ends meanwhile: given up half way, it may or may not have run.
	err := w.Runtime.StartContainer(context.WithoutCancel(ctx), id)
	if a.Instance != "" && observed.IsNotFound(err) { // the runtime lost it, all but its name
		err = errors.Join(err, w.Runtime.RemoveContainer(ctx, id))
	}
	w.mu.Lock()
	m := w.memoryOf(container.Name)
	m.Backoff = m.Backoff.Restarted(last)
	w.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			w.Event(pod, container.Name, true, "Failed", "Error: "+err.Error())
		}
		return &waitError{reason: "RunContainerError", err: err}
	}
	w.Event(pod, container.Name, false, "Started", "Container started")
	if w.OnStage != nil {
		w.OnStage("container", time.Since(began))
	}
	if ctx.Err() != nil || container.Lifecycle == nil || container.Lifecycle.PostStart == nil {
		return ctx.Err()
	}
	w.poke() // running, while the hook runs
	if err := w.hook(ctx, pod, container, id, container.Lifecycle.PostStart); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.Event(pod, container.Name, true, "FailedPostStartHook", fmt.Sprintf("PostStartHook failed: %v", err))
		kill := sync.Action{Verb: sync.KillContainer, ID: id, Container: container, Kill: sync.Kill{Reason: "FailedPostStartHook", Message: "FailedPostStartHook"}}
		return &waitError{reason: "PostStartHookError", err: errors.Join(err, w.kill(ctx, pod, kill))}
	}
	return nil
}

// prepare pulls the container's image and returns the configurations of a new instance and of its sandbox.
func (w *worker) prepare(ctx context.Context, pod *v1.Pod, seen *observed.Pod, a sync.Action) (*runtimeapi.ContainerConfig, *runtimeapi.PodSandboxConfig, error) {
	sandbox := seen.Ready()
	if sandbox == nil || sandbox.ID != a.ID {
		return nil, nil, errors.New("sandbox changed")
	}
	hostname, err := criconfig.SandboxHostname(pod, w.ClusterDomain)
	if err != nil {
		return nil, nil, err
	}
	dns, err := w.DNS(pod)
	if err != nil {
		return nil, nil, err
	}
	userns, err := w.userNS(pod)
	if err != nil {
		return nil, nil, err
	}
	sandboxConfig := criconfig.Sandbox(pod, int(sandbox.Attempt), w.Node, hostname, dns, userns)
	image, imageVolumes, err := w.pull(ctx, pod, a.Container, sandboxConfig)
	if err != nil {
		return nil, nil, err
	}
	config, err := w.configure(ctx, pod, seen, a, sandbox, image, imageVolumes, userns)
	if err != nil {
		w.Event(pod, a.Container.Name, true, "Failed", "Error: "+err.Error())
		return nil, nil, &waitError{reason: "CreateContainerConfigError", err: err}
	}
	return config, sandboxConfig, nil
}

// pull makes sure of the container's image and of the image volumes it mounts.
func (w *worker) pull(ctx context.Context, pod *v1.Pod, container *v1.Container, sandbox *runtimeapi.PodSandboxConfig) (*runtimeapi.Image, map[string]string, error) {
	keys := w.keyring(ctx, pod)
	ensure := func(name string, policy v1.PullPolicy) (*runtimeapi.Image, error) {
		image, err := w.Puller.Ensure(ctx, name, policy, keys, sandbox, func(warning bool, reason, message string) {
			w.Event(pod, container.Name, warning, reason, message)
		})
		var failed *images.Error
		if errors.As(err, &failed) {
			return nil, &waitError{reason: failed.Reason, retry: failed.Retry, err: failed.Err}
		}
		return image, err
	}
	started := time.Now()
	image, err := ensure(container.Image, container.ImagePullPolicy)
	if err != nil {
		return nil, nil, err
	}
	if w.OnStage != nil {
		w.OnStage("image", time.Since(started))
	}
	volumes := map[string]string{}
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.Image == nil || !slices.ContainsFunc(container.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == volume.Name }) {
			continue
		}
		mounted, err := ensure(volume.Image.Reference, volume.Image.PullPolicy)
		if err != nil {
			return nil, nil, err
		}
		volumes[volume.Name] = mounted.Id
	}
	return image, volumes, nil
}

// keyring reads the pod's image pull secrets. One that is missing or broken is reported and does not keep the others from being tried.
func (w *worker) keyring(ctx context.Context, pod *v1.Pod) images.Keyring {
	var keys images.Keyring
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := w.Objects.Secret(ctx, pod.Namespace, ref.Name)
		if err == nil && secret == nil {
			err = fmt.Errorf("secret %q not found", ref.Name)
		}
		if err == nil {
			var some images.Keyring
			if some, err = images.ParseSecret(secret); err == nil {
				keys = append(keys, some...)
				continue
			}
		}
		w.Event(pod, "", true, "FailedToRetrieveImagePullSecret",
			fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed. (%v)", ref.Name, err))
	}
	return keys
}

// configure collects what the container's configuration is made of.
func (w *worker) configure(ctx context.Context, pod *v1.Pod, seen *observed.Pod, a sync.Action, sandbox *observed.Sandbox, image *runtimeapi.Image,
	imageVolumes map[string]string, userns *runtimeapi.UserNamespace,
) (*runtimeapi.ContainerConfig, error) {
	container := a.Container
	facts := w.Facts()
	facts.PodIPs = status.PodIPs(pod, seen, facts.HostIPs)
	services, master := w.Services.Services(pod.Namespace)
	env, err := podenv.Build(pod, container, services, master, podenv.Lookup{
		ConfigMap: func(name string) (*v1.ConfigMap, error) { return w.Objects.ConfigMap(ctx, pod.Namespace, name) },
		Secret:    func(name string) (*v1.Secret, error) { return w.Objects.Secret(ctx, pod.Namespace, name) },
	}, facts)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for _, kv := range env {
		vars[kv.Key] = string(kv.Value)
	}
	mounts, err := w.Volumes.Mounts(ctx, pod, container, vars, imageVolumes, userns.GetUids(), userns.GetGids())
	if err != nil {
		return nil, err
	}
	if hosts, err := w.hostsMount(pod, container, facts.PodIPs); err != nil {
		return nil, err
	} else if hosts != nil {
		mounts = append(mounts, hosts)
	}
	in := criconfig.Inputs{Pod: pod, Container: container, Kind: a.Kind, Attempt: a.Attempt, Image: image, Env: env, Mounts: mounts, UserNS: userns}
	if in.Devices, err = w.Volumes.Devices(ctx, pod, container); err != nil {
		return nil, err
	}
	if w.Devices != nil {
		devices, err := w.Devices(ctx, pod, container)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(devices.Env)) {
			in.Env = append(in.Env, &runtimeapi.KeyValue{Key: name, Value: []byte(devices.Env[name])})
		}
		in.Mounts, in.Devices, in.CDIDevices = append(in.Mounts, devices.Mounts...), append(in.Devices, devices.Devices...), devices.CDI
		in.Annotations = devices.Annotations
	}
	if a.Kind == sync.Ephemeral {
		for i := range pod.Spec.EphemeralContainers {
			if e := &pod.Spec.EphemeralContainers[i]; e.Name == container.Name && e.TargetContainerName != "" {
				target := seen.Newest(e.TargetContainerName)
				if target == nil || target.State != observed.Running {
					return nil, fmt.Errorf("unable to find target container %q", e.TargetContainerName)
				}
				in.TargetID = target.ID
			}
		}
	}
	if in.MessageFile, err = w.messageFile(pod, container.Name, a.Attempt); err != nil {
		return nil, err
	}
	return criconfig.Container(in, w.Node)
}

func (w *worker) httpHook(ctx context.Context, pod *v1.Pod, container *v1.Container, action *v1.HTTPGetAction) error {
	w.mu.Lock()
	ips := status.PodIPs(pod, w.seen, w.Facts().HostIPs)
	w.mu.Unlock()
	if len(ips) == 0 {
		return errors.New("pod has no address")
	}
	_, err := probes.HTTPGet(ctx, action, probes.Target{Pod: pod, Container: container, PodIP: ips[0]})
	return err
}
