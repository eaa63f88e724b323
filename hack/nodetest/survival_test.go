// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The agent is killed twenty times while pods come and go.
func TestAgentKilled(t *testing.T) {
	n := Start(t, nil)
	ctx := t.Context()
	if _, err := n.Client.CoreV1().ConfigMaps("default").Create(ctx, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	withVolumes := func(pod *v1.Pod) *v1.Pod {
		pod.Spec.Volumes = []v1.Volume{
			{Name: "m", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
			{Name: "p", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "c"}}}}}}},
		}
		pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "m", MountPath: "/m"}, {Name: "p", MountPath: "/p"}}
		return pod
	}
	n.Down()
	n.Spawn()
	const lasting = 4
	ids := map[string]string{}
	for i := range lasting {
		name := fmt.Sprintf("lasting-%d", i)
		pod := withVolumes(Pod(name, "forever"))
		pod.Spec.RestartPolicy = v1.RestartPolicyAlways
		n.Create(pod)
	}
	for i := range lasting {
		name := fmt.Sprintf("lasting-%d", i)
		ids[name] = n.WaitReady(name).Status.ContainerStatuses[0].ContainerID
	}
	for round := range 20 {
		n.Create(withVolumes(Pod(fmt.Sprintf("job-%d", round), "print=ran")))
		n.Create(withVolumes(Pod(fmt.Sprintf("gone-%d", round), "forever")))
		if round > 0 { // delete what the last round made, whatever state it is in
			if err := n.Client.CoreV1().Pods("default").Delete(ctx, fmt.Sprintf("gone-%d", round-1), metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(round*37%300) * time.Millisecond) // not a wait: the moment of the kill moves through the pods' start
		n.Kill()
		n.Spawn()
	}
	for round := range 20 {
		pod := n.WaitPhase(fmt.Sprintf("job-%d", round), v1.PodSucceeded)
		// Run twice it must not be; killed between its making and its start an instance may have been made anew.
		if ran := countLogs(n, pod); ran != 1 {
			t.Errorf("job-%d ran %d times", round, ran)
		}
		if round < 19 {
			n.WaitGone(fmt.Sprintf("gone-%d", round))
		}
	}
	n.Delete("gone-19")
	for name, id := range ids {
		if s := n.WaitReady(name).Status.ContainerStatuses[0]; s.ContainerID != id || s.RestartCount != 0 {
			t.Errorf("%s was restarted: %+v", name, s)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		points := mounts(filepath.Join(n.Config.Kubelet.DataDir, "pods"))
		if len(points) == 2*lasting {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d mounts, want %d:\n%s", len(points), 2*lasting, strings.Join(points, "\n"))
		}
	}

	began := time.Now()
	pid := n.RuntimePID()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.Create(Pod("after", "print=x"))
	n.WaitPhase("after", v1.PodSucceeded)
	t.Logf("a pod ran %v after containerd was killed", time.Since(began).Round(time.Millisecond))
	for name, id := range ids {
		if s := n.Get(name).Status.ContainerStatuses[0]; s.ContainerID != id || s.RestartCount != 0 {
			t.Errorf("%s was restarted by containerd's death: %+v", name, s)
		}
	}
}

// TestStatusAfterTheAgentsReturn: what happened while no agent ran is in the pod's status soon after the next one's start; the log says how soon.
func TestStatusAfterTheAgentsReturn(t *testing.T) {
	n := Start(t, nil)
	n.Down()
	n.Spawn()
	n.Create(Pod("dies", "forever", n.mark()))
	n.WaitReady("dies")
	process := processOf(t, n.mark())
	n.Kill()
	if err := unix.Kill(process, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	n.Spawn()
	ready := time.Now()
	pod := n.WaitPhase("dies", v1.PodFailed)
	if end := pod.Status.ContainerStatuses[0].State.Terminated; end == nil || end.ExitCode != 137 {
		t.Errorf("%+v", pod.Status.ContainerStatuses[0].State)
	}
	t.Logf("the status was right %v after the agent's start, %v after it was ready", time.Since(started).Round(time.Millisecond), time.Since(ready).Round(time.Millisecond))
}

// countLogs counts how often a pod's command ran to its end.
func countLogs(n *Node, pod *v1.Pod) int {
	files, _ := filepath.Glob(filepath.Join(n.Config.Kubelet.PodLogsDir, "default_"+pod.Name+"_"+string(pod.UID), "app", "*.log"))
	count := 0
	for _, file := range files {
		data, _ := os.ReadFile(file)
		count += strings.Count(string(data), "ran\n")
	}
	return count
}

func TestReboot(t *testing.T) {
	n := Start(t, nil)
	pod := Pod("lasting", "forever")
	pod.Spec.RestartPolicy = v1.RestartPolicyAlways
	n.Create(pod)
	job := Pod("job", "print=done")
	n.Create(job)
	before := n.WaitReady("lasting")
	n.WaitPhase("job", v1.PodSucceeded)
	n.Down()
	n.Crash()
	n.Up()
	after := n.Wait("lasting", "back", func(p *v1.Pod) bool {
		return ConditionOf(p, v1.PodReady) == v1.ConditionTrue && p.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID
	})
	if s := after.Status.ContainerStatuses[0]; s.RestartCount != 1 || s.State.Running == nil {
		t.Errorf("status %+v", s)
	}
	if after.UID != before.UID {
		t.Error("it is another pod")
	}
	if phase := n.Get("job").Status.Phase; phase != v1.PodSucceeded {
		t.Errorf("the job that was done is %s", phase)
	}
	n.Delete("lasting")
}
