// SPDX-License-Identifier: Apache-2.0

package runtimeclass

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/admission/admissiontest"
)

func TestPods(t *testing.T) {
	overhead := func(cpu string) corev1.ResourceList { return corev1.ResourceList{"cpu": resource.MustParse(cpu)} }
	toleration := corev1.Toleration{Key: "vm", Operator: corev1.TolerationOpExists}
	p := New()
	admissiontest.Initialize(t, p, nil,
		&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "kata", Overhead: &nodev1.Overhead{PodFixed: overhead("250m")},
			Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{toleration}}},
		&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "plain"}, Handler: "runc"})
	for _, c := range []struct {
		name  string
		class *string
		set   func(*corev1.PodSpec)
		want  string
		cpu   string
	}{
		{"names no class", nil, nil, "", "0"},
		{"a class with overhead", ptr.To("vm"), nil, "", "250m"},
		{"the same overhead", ptr.To("vm"), func(s *corev1.PodSpec) { s.Overhead = overhead("250m") }, "", "250m"},
		{"another overhead", ptr.To("vm"), func(s *corev1.PodSpec) { s.Overhead = overhead("1m") }, "doesn't match RuntimeClass's defined Overhead", ""},
		{"overhead without class", nil, func(s *corev1.PodSpec) { s.Overhead = overhead("1m") }, "without corresponding RuntimeClass", ""},
		{"overhead with a class that has none", ptr.To("plain"), func(s *corev1.PodSpec) { s.Overhead = overhead("1m") }, "without corresponding RuntimeClass", ""},
		{"an absent class", ptr.To("nope"), nil, `RuntimeClass "nope" not found`, ""},
		{"a contradicting node selector", ptr.To("vm"), func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"vm": "no"} }, "conflict", ""},
		{"the toleration already there", ptr.To("vm"), func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{toleration} }, "", "250m"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Spec: corev1.PodSpec{RuntimeClassName: c.class}}
			if c.set != nil {
				c.set(&pod.Spec)
			}
			err := admissiontest.Run(t, p, admissiontest.Request{Object: pod})
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want one with %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := pod.Spec.Overhead.Cpu().String(); got != c.cpu {
				t.Errorf("overhead %s, want %s", got, c.cpu)
			}
			if c.class != nil && *c.class == "vm" && (pod.Spec.NodeSelector["vm"] != "yes" || len(pod.Spec.Tolerations) != 1) {
				t.Errorf("selector %v, tolerations %v", pod.Spec.NodeSelector, pod.Spec.Tolerations)
			}
		})
	}
}
