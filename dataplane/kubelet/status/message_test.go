// SPDX-License-Identifier: Apache-2.0

package status

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
)

// A pod's directory, and with it the message file, is removed after the pod's end; the status must go on showing what it said.
func TestTerminationMessageOutlivesItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "0")
	if err := os.WriteFile(file, []byte("bye"), 0o600); err != nil {
		t.Fatal(err)
	}
	end := &observed.Container{ID: "a", Name: "c", State: observed.Exited, ExitCode: 5, Annotations: map[string]string{observed.AnnotationMessageFile: file}}
	in := Input{RuntimeName: "containerd", Message: ReadMessage}
	first := in.terminated(end, nil)
	if first.Message != "bye" {
		t.Fatalf("message %q, want bye", first.Message)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	before := &v1.ContainerStatus{State: v1.ContainerState{Terminated: first}}
	if again := in.terminated(end, before); again.Message != "bye" {
		t.Errorf("message %q after the file is gone, want bye", again.Message)
	}
	in.Before = &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{*before}}
	if again := in.terminated(end, nil); again.Message != "bye" {
		t.Errorf("message %q when only the kubelet's own last status has it, want bye", again.Message)
	}
	other := *end
	other.ID = "b"
	if got := in.terminated(&other, before); got.Message != "" {
		t.Errorf("message %q of another instance of the container, want none", got.Message)
	}
}
