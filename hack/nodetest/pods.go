// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/hack/await"
	"github.com/fairlead/fairlead/hack/images/testimage"
)

// Pod returns a pod bound to the node with one container, testapp with args.
func Pod(name string, args ...string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Spec: v1.PodSpec{
			NodeName: NodeName, AutomountServiceAccountToken: ptr.To(false), TerminationGracePeriodSeconds: ptr.To[int64](5), RestartPolicy: v1.RestartPolicyNever,
			Containers: []v1.Container{Container("app", args...)},
		},
	}
}

// Container returns a container of testapp.
func Container(name string, args ...string) v1.Container {
	return v1.Container{Name: name, Image: testimage.Name, ImagePullPolicy: v1.PullIfNotPresent, Args: args}
}

// Create creates the pod.
func (n *Node) Create(pod *v1.Pod) *v1.Pod {
	n.T.Helper()
	created, err := n.Client.CoreV1().Pods(pod.Namespace).Create(context.Background(), pod, metav1.CreateOptions{})
	if err != nil {
		n.T.Fatal(err)
	}
	return created
}

// Get reads a pod.
func (n *Node) Get(name string) *v1.Pod {
	n.T.Helper()
	pod, err := n.Client.CoreV1().Pods(metav1.NamespaceDefault).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		n.T.Fatal(err)
	}
	return pod
}

// Wait waits until the pod is as good says, and returns it.
func (n *Node) Wait(name, what string, good func(*v1.Pod) bool) *v1.Pod {
	n.T.Helper()
	deadline := time.Now().Add(45 * time.Second)
	for {
		pod, err := n.Client.CoreV1().Pods(metav1.NamespaceDefault).Get(context.Background(), name, metav1.GetOptions{})
		if err == nil && good(pod) {
			return pod
		}
		if time.Now().After(deadline) {
			text := fmt.Sprint(err)
			if pod != nil {
				data, _ := json.MarshalIndent(pod.Status, "", " ")
				text = string(data)
			}
			n.T.Fatalf("pod %s is not %s:\n%s\n%s", name, what, text, strings.Join(n.Events(name), "\n"))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// WaitPhase waits for a phase.
func (n *Node) WaitPhase(name string, phase v1.PodPhase) *v1.Pod {
	n.T.Helper()
	return n.Wait(name, string(phase), func(pod *v1.Pod) bool { return pod.Status.Phase == phase })
}

// WaitReady waits until the pod is ready.
func (n *Node) WaitReady(name string) *v1.Pod {
	n.T.Helper()
	return n.Wait(name, "ready", func(pod *v1.Pod) bool { return ConditionOf(pod, v1.PodReady) == v1.ConditionTrue })
}

// WaitGone waits until the API has no such pod.
func (n *Node) WaitGone(name string) {
	n.T.Helper()
	deadline := time.Now().Add(45 * time.Second)
	for {
		pod, err := n.Client.CoreV1().Pods(metav1.NamespaceDefault).Get(context.Background(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return
		}
		if time.Now().After(deadline) {
			data, _ := json.MarshalIndent(pod, "", " ")
			n.T.Fatalf("pod %s is still there:\n%s", name, data)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Delete deletes the pod and waits until it is gone.
func (n *Node) Delete(name string) {
	n.T.Helper()
	if err := n.Client.CoreV1().Pods(metav1.NamespaceDefault).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		n.T.Fatal(err)
	}
	n.WaitGone(name)
}

// Events returns the pod's events, as reason and message.
func (n *Node) Events(name string) []string {
	list, err := n.Client.CoreV1().Events(metav1.NamespaceDefault).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, event := range list.Items {
		if event.InvolvedObject.Name == name {
			out = append(out, fmt.Sprintf("%s %s: %s", event.Type, event.Reason, event.Message))
		}
	}
	return out
}

// Log returns what a container instance wrote, without times and tags.
func (n *Node) Log(pod *v1.Pod, container string, attempt int) string {
	n.T.Helper()
	name := filepath.Join(n.Config.Kubelet.PodLogsDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID), container, fmt.Sprint(attempt)+".log")
	data, err := os.ReadFile(name)
	if err != nil {
		n.T.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			out.WriteString(fields[3])
		}
	}
	return out.String()
}

// UntilLog waits until what the first instance of a container that runs has written is good: it runs before it has written anything.
func (n *Node) UntilLog(pod *v1.Pod, container string, good func(log string) bool) {
	n.T.Helper()
	await.Nil(n.T, time.Minute, func() error {
		if log := n.Log(pod, container, 0); !good(log) {
			return fmt.Errorf("log of %s in pod %s: %q", container, pod.Name, log)
		}
		return nil
	})
}

// ConditionOf is the status of a pod's condition.
func ConditionOf(pod *v1.Pod, kind v1.PodConditionType) v1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}
