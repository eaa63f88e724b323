// SPDX-License-Identifier: Apache-2.0

package podsecurity

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/admission/admissiontest"
)

func namespace(name, level string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": level}}}
}

func pod(namespace string, change func(*corev1.PodSpec)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}}}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func TestLevels(t *testing.T) {
	host := func(s *corev1.PodSpec) { s.HostNetwork = true }
	privileged := func(s *corev1.PodSpec) {
		s.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	}
	debug := func(s *corev1.PodSpec) {
		s.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d",
			SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true)}}}}
	}
	good := func(s *corev1.PodSpec) {
		s.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
		s.Containers[0].SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	}
	p, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	admissiontest.Initialize(t, p, nil, namespace("base", "baseline"), namespace("strict", "restricted"),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "free"}})
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "strict", Name: "d"},
		Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: pod("", privileged).Spec}}}
	for _, c := range []struct {
		name string
		r    admissiontest.Request
		want string
	}{
		{"anything where nothing is said", admissiontest.Request{Object: pod("free", privileged)}, ""},
		{"a plain pod under baseline", admissiontest.Request{Object: pod("base", nil)}, ""},
		{"the host's network under baseline", admissiontest.Request{Object: pod("base", host)}, "hostNetwork=true"},
		{"privileged under baseline", admissiontest.Request{Object: pod("base", privileged)}, "privileged"},
		{"a plain pod under restricted", admissiontest.Request{Object: pod("strict", nil)}, "allowPrivilegeEscalation != false"},
		{"a careful pod under restricted", admissiontest.Request{Object: pod("strict", good)}, ""},
		{"a privileged debug container", admissiontest.Request{Object: pod("base", debug), Old: pod("base", nil), Subresource: "ephemeralcontainers"}, "privileged"},
		{"a status", admissiontest.Request{Object: pod("base", host), Old: pod("base", host), Subresource: "status"}, ""},
		{"a deployment is warned about only", admissiontest.Request{Object: deployment}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := admissiontest.Run(t, p, c.r)
			if c.want == "" && err != nil || c.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want Forbidden with %q", err, c.want)
			}
		})
	}
	var bad runtime.Object = namespace("x", "sloppy")
	if err := admissiontest.Run(t, p, admissiontest.Request{Object: bad}); !apierrors.IsInvalid(err) {
		t.Errorf("an unknown level: %v, want Invalid", err)
	}
}

func TestConfiguration(t *testing.T) {
	p, err := New(strings.NewReader(`{"apiVersion":"pod-security.admission.config.k8s.io/v1","kind":"PodSecurityConfiguration","defaults":{"enforce":"baseline"},"exemptions":{"namespaces":["kube-system"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	admissiontest.Initialize(t, p, nil, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "any"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}})
	host := func(s *corev1.PodSpec) { s.HostNetwork = true }
	if err := admissiontest.Run(t, p, admissiontest.Request{Object: pod("any", host)}); !apierrors.IsForbidden(err) {
		t.Errorf("the configured default level: %v", err)
	}
	if err := admissiontest.Run(t, p, admissiontest.Request{Object: pod("kube-system", host)}); err != nil {
		t.Errorf("the exempt namespace: %v", err)
	}
	if _, err := New(strings.NewReader("kind: nonsense")); err == nil {
		t.Error("nonsense was accepted as configuration")
	}
}
