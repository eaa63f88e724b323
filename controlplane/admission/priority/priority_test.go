// SPDX-License-Identifier: Apache-2.0

package priority

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/admission/admissiontest"
)

func class(name string, value int32, isDefault bool) *schedulingv1.PriorityClass {
	return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: isDefault}
}

func pod(class string, value *int32) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Spec: corev1.PodSpec{PriorityClassName: class, Priority: value}}
}

func TestPods(t *testing.T) {
	never := class("patient", 10, false)
	never.PreemptionPolicy = ptr.To(corev1.PreemptNever)
	for _, c := range []struct {
		name      string
		isDefault bool
		pod       *corev1.Pod
		priority  int32
		class     string
		policy    corev1.PreemptionPolicy
		want      string
	}{
		{"no class and no default", false, pod("", nil), 0, "", corev1.PreemptLowerPriority, ""},
		{"no class but a default", true, pod("", nil), 5, "low", corev1.PreemptLowerPriority, ""},
		{"a class", true, pod("high", nil), 1000, "high", corev1.PreemptLowerPriority, ""},
		{"a class that does not preempt", false, pod("patient", nil), 10, "patient", corev1.PreemptNever, ""},
		{"the right number too", false, pod("high", ptr.To[int32](1000)), 1000, "high", corev1.PreemptLowerPriority, ""},
		{"a number of its own", false, pod("high", ptr.To[int32](2000)), 0, "", "", "leave the field out"},
		{"a number without a class", false, pod("", ptr.To[int32](1)), 0, "", "", "leave the field out"},
		{"a class that is not there", false, pod("nope", nil), 0, "", "", "no PriorityClass with name nope was found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := New()
			admissiontest.Initialize(t, p, nil, class("low", 5, c.isDefault), class("high", 1000, false), never)
			err := admissiontest.Run(t, p, admissiontest.Request{Object: c.pod})
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want one with %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := c.pod.Spec; *s.Priority != c.priority || s.PriorityClassName != c.class || *s.PreemptionPolicy != c.policy {
				t.Errorf("priority %d, class %q, policy %s", *s.Priority, s.PriorityClassName, *s.PreemptionPolicy)
			}
		})
	}
}

func TestOneGlobalDefault(t *testing.T) {
	p := New()
	admissiontest.Initialize(t, p, nil, class("low", 5, true), class("high", 1000, false))
	run := func(r admissiontest.Request) error { r.Resource = "priorityclasses"; return admissiontest.Run(t, p, r) }
	if err := run(admissiontest.Request{Object: class("second", 7, true)}); err == nil || !strings.Contains(err.Error(), "low is already marked as default") {
		t.Errorf("a second default: %v", err)
	}
	if err := run(admissiontest.Request{Object: class("high", 1000, true), Old: class("high", 1000, false)}); err == nil {
		t.Error("a second default by update was accepted")
	}
	if err := run(admissiontest.Request{Object: class("low", 5, true), Old: class("low", 5, true)}); err != nil {
		t.Errorf("an update of the default itself: %v", err)
	}
	if err := run(admissiontest.Request{Object: class("third", 7, false)}); err != nil {
		t.Errorf("an ordinary class: %v", err)
	}
}
