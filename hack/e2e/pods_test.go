// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podPatience is how long a pod may take to what is asked of it, on a machine that does other things too.
const podPatience = 60 * time.Second

// pods is a namespace with pods of one test.
type pods struct {
	*testing.T
	ns string
}

// podCase is one of the tests that run beside each other in a namespace.
type podCase struct {
	name string
	run  func(p pods)
}

// runPods runs all cases at once in a namespace of their own. In manifests IMAGE stands for the image with a shell.
func runPods(t *testing.T, ns string, cases []podCase) {
	inNamespace(t, ns)
	t.Run("pods", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(pods{t, ns})
			})
		}
	})
}

func (p pods) apply(manifest string) {
	p.Helper()
	_, errOut, err := p.try("apply", strings.ReplaceAll(manifest, "IMAGE", shellImage), "-f", "-")
	if err != nil {
		p.Fatalf("apply: %v\n%s", err, errOut)
	}
}

// try runs kubectl in the namespace.
func (p pods) try(verb, stdin string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(p.Context(), podPatience)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(env.bin, "fairlead"), append([]string{"kubectl", "--kubeconfig", env.sandbox.Kubeconfig(), verb, "-n", p.ns}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// kubectl runs kubectl in the namespace and returns what it wrote on standard output.
func (p pods) kubectl(verb string, args ...string) string {
	p.Helper()
	out, errOut, err := p.try(verb, "", args...)
	if err != nil {
		p.Fatalf("kubectl %s %s: %v\n%s%s", verb, strings.Join(args, " "), err, out, errOut)
	}
	return out
}

// sh runs a shell command in a pod's default container.
func (p pods) sh(pod, script string) string {
	p.Helper()
	return p.kubectl("exec", pod, "--", "sh", "-c", script)
}

// until waits until the pod is as good says, and returns it.
func (p pods) until(name, what string, good func(*corev1.Pod) bool) *corev1.Pod {
	p.Helper()
	for deadline := time.Now().Add(podPatience); ; time.Sleep(50 * time.Millisecond) {
		pod, err := env.client.CoreV1().Pods(p.ns).Get(p.Context(), name, metav1.GetOptions{})
		if err == nil && good(pod) {
			return pod
		}
		if time.Now().After(deadline) {
			status, _ := json.MarshalIndent(pod.Status, "", " ")
			p.Fatalf("pod %s is not %s within %s: %v\n%s\n%s", name, what, podPatience, err, status, strings.Join(p.events(name), "\n"))
		}
	}
}

func (p pods) untilReady(name string) *corev1.Pod {
	p.Helper()
	return p.until(name, "ready", func(pod *corev1.Pod) bool { return podCondition(pod, corev1.PodReady) == corev1.ConditionTrue })
}

func (p pods) untilPhase(name string, phase corev1.PodPhase) *corev1.Pod {
	p.Helper()
	return p.until(name, string(phase), func(pod *corev1.Pod) bool { return pod.Status.Phase == phase })
}

// untilWaiting waits until the first container waits for this reason.
func (p pods) untilWaiting(name, reason string) *corev1.Pod {
	p.Helper()
	return p.until(name, "waiting because of "+reason, func(pod *corev1.Pod) bool {
		s := pod.Status.ContainerStatuses
		return len(s) > 0 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == reason
	})
}

// ended waits until the first container has ended and returns how.
func (p pods) ended(name string) *corev1.ContainerStateTerminated {
	p.Helper()
	pod := p.until(name, "with an ended container", func(pod *corev1.Pod) bool {
		s := pod.Status.ContainerStatuses
		return len(s) > 0 && s[0].State.Terminated != nil
	})
	return pod.Status.ContainerStatuses[0].State.Terminated
}

func (p pods) untilGone(name string) {
	p.Helper()
	eventually(p.T, podPatience, func() error {
		_, err := env.client.CoreV1().Pods(p.ns).Get(p.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errStill(name)
	})
}

type errStill string

func (e errStill) Error() string { return "pod " + string(e) + " is still there" }

// events returns a pod's events as "Type Reason: message".
func (p pods) events(pod string) (out []string) {
	list, err := env.client.CoreV1().Events(p.ns).List(p.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range list.Items {
		out = append(out, e.Type+" "+e.Reason+": "+e.Message)
	}
	return out
}

// wantEvent waits for an event of a pod that has all of these words.
func (p pods) wantEvent(pod string, words ...string) {
	p.Helper()
	for deadline := time.Now().Add(podPatience); ; time.Sleep(50 * time.Millisecond) {
		for _, event := range p.events(pod) {
			if containsAll(event, words...) == "" {
				return
			}
		}
		if time.Now().After(deadline) {
			p.Errorf("no event of %s has %q:\n%s", pod, words, strings.Join(p.events(pod), "\n"))
			return
		}
	}
}

// wantLog checks that a container that ended logged all of these words; the pod's first container when there is no name.
func (p pods) wantLog(pod, container string, words ...string) {
	p.Helper()
	log := p.kubectl("logs", pod, "-c", container)
	if missing := containsAll(log, words...); missing != "" {
		p.Errorf("the log of %s %s lacks %q:\n%s", pod, container, missing, log)
	}
}

// containsAll returns the first word that text lacks.
func containsAll(text string, words ...string) string {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return word
		}
	}
	return ""
}

func podCondition(pod *corev1.Pod, kind corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}

func containerStatus(pod *corev1.Pod, name string) corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for _, s := range list {
			if s.Name == name {
				return s
			}
		}
	}
	return corev1.ContainerStatus{}
}
