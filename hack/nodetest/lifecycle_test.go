// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestMain(m *testing.M) { Main(m) }

func TestPodLifecycle(t *testing.T) {
	n := Start(t, nil)
	t.Run("runs to completion", func(t *testing.T) {
		n.Create(Pod("done", "print=hello", "write=/dev/termination-log:bye"))
		pod := n.WaitPhase("done", v1.PodSucceeded)
		if log := n.Log(pod, "app", 0); log != "hello\n" {
			t.Errorf("log %q", log)
		}
		if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 0 || s.Message != "bye" || s.Reason != "Completed" {
			t.Errorf("state %+v", pod.Status.ContainerStatuses[0].State)
		}
		n.Delete("done")
	})
	t.Run("runs, is ready and ends gracefully", func(t *testing.T) {
		n.Create(Pod("long", "forever"))
		pod := n.WaitReady("long")
		if pod.Status.PodIP == "" || pod.Status.HostIP != NodeIP || pod.Status.StartTime == nil {
			t.Errorf("status %+v", pod.Status)
		}
		n.Delete("long")
	})
}
