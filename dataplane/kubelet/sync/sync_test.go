// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
)

var now = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// pod makes a pod with regular containers of these names; "i:x" is an init container, "s:x" a sidecar, "e:x" an ephemeral container.
func pod(policy v1.RestartPolicy, names ...string) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: policy}}
	for _, name := range names {
		kind, rest, ok := strings.Cut(name, ":")
		if !ok {
			p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: name})
			continue
		}
		c := v1.Container{Name: rest}
		switch kind {
		case "s":
			c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
			fallthrough
		case "i":
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		case "e":
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon(c)})
		}
	}
	return p
}

// see makes what the runtime has: "box" or "oldbox" (not ready) for sandboxes, "name:running", "name:exited=code[@seconds ago]", "name:created",
// with "name@old:..." for a container of an old sandbox. Later words are newer.
func see(words ...string) *observed.Pod {
	out := &observed.Pod{}
	for i, word := range words {
		made := now.Add(time.Duration(i-1000) * time.Minute)
		switch word {
		case "box", "oldbox":
			s := observed.Sandbox{ID: word, Ready: word == "box", Attempt: uint32(len(out.Sandboxes)), CreatedAt: made}
			out.Sandboxes = append([]observed.Sandbox{s}, out.Sandboxes...)
			continue
		}
		name, state, _ := strings.Cut(word, ":")
		c := observed.Container{ID: fmt.Sprintf("%s#%d", name, i), Name: name, SandboxID: "box", CreatedAt: made, StartedAt: now.Add(-time.Minute)}
		if bare, ok := strings.CutSuffix(name, "@old"); ok {
			c.Name, c.SandboxID = bare, "oldbox"
		}
		for _, before := range out.Containers {
			if before.Name == c.Name {
				c.Attempt++
			}
		}
		state, code, _ := strings.Cut(state, "=")
		c.State = map[string]observed.State{"running": observed.Running, "exited": observed.Exited, "created": observed.Created, "unknown": observed.Unknown}[state]
		ago := 0
		if number, seconds, ok := strings.Cut(code, "@"); ok {
			code = number
			fmt.Sscan(seconds, &ago)
		}
		fmt.Sscan(code, &c.ExitCode)
		c.FinishedAt = now.Add(-time.Duration(ago) * time.Second)
		out.Containers = append([]observed.Container{c}, out.Containers...)
	}
	return out
}

func describe(plan Plan) string {
	var out []string
	for _, a := range plan.Actions {
		word := a.Verb.String()
		switch {
		case a.Verb == StartContainer:
			word = fmt.Sprintf("start %s", a.Container.Name)
			if a.Instance != "" {
				word = "start instance " + a.Instance
			}
			if a.Attempt > 0 {
				word += fmt.Sprintf(" again (%d)", a.Attempt)
			}
		case a.Verb == KillContainer:
			word = "kill " + a.ID
		case a.Verb == ResizeContainer:
			word = "resize " + a.ID
		case a.Verb == CreateSandbox && a.Attempt > 0:
			word += fmt.Sprintf(" again (%d)", a.Attempt)
		case a.Verb == StopSandbox || a.Verb == RemoveSandbox || a.Verb == RemoveContainer:
			word += " " + a.ID
		}
		out = append(out, word)
	}
	slices.Sort(out)
	if plan.Ended {
		out = append(out, "ended")
	}
	if plan.Fail != nil {
		out = append(out, "fail "+plan.Fail.Reason)
	}
	if !plan.Again.IsZero() {
		out = append(out, fmt.Sprintf("look again in %v", plan.Again.Sub(now)))
	}
	return strings.Join(out, ", ")
}

func TestNext(t *testing.T) {
	const always, onFailure, never = v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever
	ending := &Ending{Deadline: now.Add(30 * time.Second)}
	removing := &Ending{Deadline: now.Add(30 * time.Second), Remove: true}
	started := func(ids ...string) map[string]*Container {
		out := map[string]*Container{}
		for _, id := range ids {
			name, _, _ := strings.Cut(id, "#")
			out[name] = &Container{Started: map[string]bool{id: true}}
		}
		return out
	}
	busy := func(keys ...Key) map[Key]struct{} {
		out := map[Key]struct{}{}
		for _, key := range keys {
			out[key] = struct{}{}
		}
		return out
	}
	for _, c := range []struct {
		name string
		in   Input
		want string
	}{
		{"a new pod gets volumes and a sandbox at once", Input{Pod: pod(always, "a"), Observed: see(), VolumesReady: false}, "create sandbox, set up volumes"},
		{"what is under way is not started again", Input{Pod: pod(always, "a"), Observed: see(), Busy: busy(Key{Verb: CreateSandbox}, Key{Verb: SetUpVolumes})}, ""},
		{"containers wait for volumes", Input{Pod: pod(always, "a"), Observed: see("box"), Busy: busy(Key{Verb: SetUpVolumes})}, ""},
		{"containers start together", Input{Pod: pod(always, "a", "b"), Observed: see("box"), VolumesReady: true}, "start a, start b"},
		{"running containers are left alone", Input{Pod: pod(always, "a"), Observed: see("box", "a:running"), VolumesReady: true}, ""},
		{"a failed sandbox waits", Input{Pod: pod(always, "a"), Observed: see(), VolumesReady: true, SandboxRetry: now.Add(time.Second)}, "look again in 1s"},

		{"init containers one by one", Input{Pod: pod(always, "i:x", "i:y", "a"), Observed: see("box"), VolumesReady: true}, "start x"},
		{"the second init container after the first", Input{Pod: pod(always, "i:x", "i:y", "a"), Observed: see("box", "x:exited=0"), VolumesReady: true}, "start y"},
		{"no regular container while one runs", Input{Pod: pod(always, "i:x", "a"), Observed: see("box", "x:running"), VolumesReady: true}, ""},
		{"regular containers after all init containers", Input{Pod: pod(always, "i:x", "a"), Observed: see("box", "x:exited=0"), VolumesReady: true}, "start a"},
		{"init containers do not run again when regular ones exist", Input{Pod: pod(always, "i:x", "a"), Observed: see("box", "x:exited=0", "a:exited=1@60"), VolumesReady: true}, "start a again (1)"},
		{"a failed init container starts again", Input{Pod: pod(onFailure, "i:x", "a"), Observed: see("box", "x:exited=1@60"), VolumesReady: true}, "start x again (1)"},
		{"a failed init container of a pod that never restarts ends it", Input{Pod: pod(never, "i:x", "a"), Observed: see("box", "x:exited=1"), VolumesReady: true}, "ended"},

		{"a sidecar starts and the next waits for it", Input{Pod: pod(always, "s:x", "a"), Observed: see("box"), VolumesReady: true}, "start x"},
		{"a sidecar that runs but has not started yet holds up", Input{Pod: pod(always, "s:x", "a"), Observed: see("box", "x:running"), VolumesReady: true}, ""},
		{"a started sidecar lets the others start", Input{Pod: pod(always, "s:x", "a"), Observed: see("box", "x:running"), VolumesReady: true, Memory: started("x#1")}, "start a"},
		{"a sidecar that ends starts again and holds nobody up", Input{Pod: pod(never, "s:x", "a"), Observed: see("box", "x:exited=0@60", "a:running"), VolumesReady: true}, "start x again (1)"},

		{"always restarts after success", Input{Pod: pod(always, "a"), Observed: see("box", "a:exited=0@60"), VolumesReady: true}, "start a again (1)"},
		{"on failure restarts after failure", Input{Pod: pod(onFailure, "a", "b"), Observed: see("box", "a:exited=1@60", "b:exited=0"), VolumesReady: true}, "start a again (1)"},
		{"on failure is done after success", Input{Pod: pod(onFailure, "a"), Observed: see("box", "a:exited=0"), VolumesReady: true}, "ended"},
		{"never is done after failure", Input{Pod: pod(never, "a"), Observed: see("box", "a:exited=1"), VolumesReady: true}, "ended"},
		{"not done while another runs", Input{Pod: pod(never, "a", "b"), Observed: see("box", "a:exited=1", "b:running"), VolumesReady: true}, ""},
		{"an instance that was made but not started is started", Input{Pod: pod(never, "a"), Observed: see("box", "a:created"), VolumesReady: true}, "start instance a#1"},
		{"as the attempt that it is", Input{Pod: pod(always, "a"), Observed: see("box", "a:exited=1@60", "a:created"), VolumesReady: true}, "start instance a#2 again (1)"},
		{"an init container's too", Input{Pod: pod(never, "i:x", "a"), Observed: see("box", "x:created"), VolumesReady: true}, "start instance x#1"},
		{"an ephemeral container's too", Input{Pod: pod(always, "a", "e:d"), Observed: see("box", "a:running", "d:created"), VolumesReady: true}, "start instance d#2"},
		{"one that was made in an old sandbox is made again", Input{Pod: pod(never, "a"), Observed: see("oldbox", "a@old:created", "box"), VolumesReady: true}, "start a again (1)"},
		{"an instance that nobody knows to be dead is killed first", Input{Pod: pod(always, "a"), Observed: see("box", "a:unknown"), VolumesReady: true}, "kill a#1"},
		{"an init container that nobody knows to be dead too", Input{Pod: pod(always, "i:x", "a"), Observed: see("box", "x:unknown"), VolumesReady: true}, "kill x#1"},
		{"back-off holds a restart up", Input{Pod: pod(always, "a"), Observed: see("box", "a:exited=1@4"), VolumesReady: true,
			Memory: map[string]*Container{"a": {Backoff: Backoff{10 * time.Second}}}}, "look again in 6s"},
		{"a failed start waits", Input{Pod: pod(always, "a"), Observed: see("box"), VolumesReady: true, Memory: map[string]*Container{"a": {Retry: now.Add(2 * time.Second)}}}, "look again in 2s"},

		{"an unhealthy container is killed", Input{Pod: pod(always, "a"), Observed: see("box", "a:running"), VolumesReady: true,
			Memory: map[string]*Container{"a": {Unhealthy: map[string]Kill{"a#1": {Reason: "Unhealthy"}}}}}, "kill a#1"},
		{"only the instance that is unhealthy", Input{Pod: pod(always, "a"), Observed: see("box", "a:running"), VolumesReady: true,
			Memory: map[string]*Container{"a": {Unhealthy: map[string]Kill{"a#0": {Reason: "Unhealthy"}}}}}, ""},

		{"a sandbox that died takes its containers along", Input{Pod: pod(always, "a"), Observed: see("oldbox", "a@old:running"), VolumesReady: true}, "kill a@old#1"},
		{"then a new one is made", Input{Pod: pod(always, "a"), Observed: see("oldbox", "a@old:exited=137"), VolumesReady: true}, "create sandbox again (1)"},
		{"and init containers run again in it", Input{Pod: pod(always, "i:x", "a"), Observed: see("oldbox", "x@old:exited=0", "a@old:exited=137@60", "box"), VolumesReady: true}, "start x again (1)"},
		{"no new sandbox for a pod that is done", Input{Pod: pod(never, "a"), Observed: see("oldbox", "a@old:exited=0"), VolumesReady: true}, "ended"},

		{"ephemeral containers start once", Input{Pod: pod(always, "a", "e:d"), Observed: see("box", "a:running"), VolumesReady: true}, "start d"},
		{"and never again", Input{Pod: pod(always, "a", "e:d"), Observed: see("box", "a:running", "d:exited=1"), VolumesReady: true}, ""},

		{"old instances are removed", Input{Pod: pod(always, "a"), Observed: see("box", "a:exited=1", "a:exited=1", "a:running"), VolumesReady: true}, "remove container a#1"},
		{"an old sandbox nobody uses is removed", Input{Pod: pod(always, "a"), Observed: see("oldbox", "box", "a:running"), VolumesReady: true}, "remove sandbox oldbox"},

		{"an end kills all but sidecars", Input{Pod: pod(always, "s:x", "a", "b"), Observed: see("box", "x:running", "a:running", "b:running"), VolumesReady: true, Ending: ending}, "kill a#2, kill b#3"},
		{"then sidecars, last first", Input{Pod: pod(always, "s:x", "s:y", "a"), Observed: see("box", "x:running", "y:running", "a:exited=0"), VolumesReady: true, Ending: ending}, "kill y#2"},
		{"then the sandbox", Input{Pod: pod(always, "a"), Observed: see("box", "a:exited=0"), VolumesReady: true, Ending: ending}, "stop sandbox box"},
		{"then volumes", Input{Pod: pod(always, "a"), Observed: see("oldbox", "a@old:exited=0"), VolumesReady: true, Ending: ending}, "tear down"},
		{"then it has ended", Input{Pod: pod(always, "a"), Observed: see("oldbox", "a@old:exited=0"), TornDown: true, Ending: ending}, "ended"},
		{"a removed pod leaves nothing", Input{Pod: pod(always, "a"), Observed: see("oldbox", "a@old:exited=0"), TornDown: true, Ending: removing}, "remove sandbox oldbox"},
		{"an end removes what was made and not started before the sandbox", Input{Pod: pod(always, "a"), Observed: see("box", "a:created"), VolumesReady: true, Ending: ending},
			"remove container a#1"},
		{"an end waits for a start under way", Input{Pod: pod(always, "a"), Observed: see("box"), VolumesReady: true, Ending: ending, Busy: busy(Key{StartContainer, "a"})}, ""},

		{"a pod past its deadline fails", Input{Pod: func() *v1.Pod { p := pod(always, "a"); p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5); return p }(),
			Observed: see("box", "a:running"), VolumesReady: true, StartTime: now.Add(-6 * time.Second)}, "fail DeadlineExceeded"},
		{"a deadline to come is looked at in time", Input{Pod: func() *v1.Pod { p := pod(always, "a"); p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5); return p }(),
			Observed: see("box", "a:running"), VolumesReady: true, StartTime: now.Add(-2 * time.Second)}, "look again in 3s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Now = now
			if got := describe(Next(c.in)); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestRestartRules(t *testing.T) {
	container := v1.Container{Name: "a", RestartPolicy: ptr.To(v1.ContainerRestartPolicyNever), RestartPolicyRules: []v1.ContainerRestartRule{
		{Action: v1.ContainerRestartRuleActionRestart, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}},
	}}
	for code, want := range map[int32]bool{42: true, 1: false, 0: false} {
		last := &observed.Container{State: observed.Exited, ExitCode: code}
		if got := ShouldRestart(pod(v1.RestartPolicyAlways), &container, Regular, last); got != want {
			t.Errorf("exit code %d: restart %v, want %v", code, got, want)
		}
	}
}

func TestBackoffGrowsAndResets(t *testing.T) {
	short := &observed.Container{StartedAt: now.Add(-time.Second), FinishedAt: now}
	var b Backoff
	if until := b.Until(short); until.After(now) {
		t.Errorf("the first restart waits until %v", until)
	}
	var got []time.Duration
	for range 7 {
		b = b.Restarted(short)
		got = append(got, b.Until(short).Sub(now)/time.Second)
	}
	if want := []time.Duration{10, 20, 40, 80, 160, 300, 300}; !slices.Equal(got, want) {
		t.Errorf("delays %d, want %d", got, want)
	}
	long := &observed.Container{StartedAt: now.Add(-11 * time.Minute), FinishedAt: now}
	if until := b.Until(long); until.After(now) {
		t.Errorf("after a long run the restart waits until %v", until)
	}
	if b = b.Restarted(long); b.Delay() != 10*time.Second {
		t.Errorf("delay after a long run %v", b.Delay())
	}
}

func TestResizeFollowsPolicy(t *testing.T) {
	p := pod(v1.RestartPolicyAlways, "a")
	p.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}}
	seen := see("box", "a:running")
	seen.Containers[0].Resources = &runtimeapi.LinuxContainerResources{CpuShares: 100, MemoryLimitInBytes: 100}
	for want, resources := range map[string]*runtimeapi.LinuxContainerResources{
		"":           {CpuShares: 100, MemoryLimitInBytes: 100},
		"resize a#1": {CpuShares: 200, MemoryLimitInBytes: 100},
		"kill a#1":   {CpuShares: 100, MemoryLimitInBytes: 200},
	} {
		in := Input{Pod: p, Observed: seen, Now: now, VolumesReady: true, Resources: map[string]*runtimeapi.LinuxContainerResources{"a": resources}}
		if got := describe(Next(in)); got != want {
			t.Errorf("%v: got %q, want %q", resources, got, want)
		}
	}
}
