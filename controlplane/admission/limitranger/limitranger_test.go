// SPDX-License-Identifier: Apache-2.0

package limitranger

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/controlplane/admission/admissiontest"
)

func amounts(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func pod(pairs ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}}
	for i := 0; i < len(pairs); i += 2 {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: string(rune('a' + i/2)),
			Resources: corev1.ResourceRequirements{Requests: amounts(pairs[i]), Limits: amounts(pairs[i+1])}})
	}
	return p
}

func claim(request string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "c"},
		Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: amounts(request)}}}
}

func TestBounds(t *testing.T) {
	container := corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Min: amounts("cpu=100m"), Max: amounts("cpu=1 memory=1Gi"),
		MaxLimitRequestRatio: amounts("cpu=4")}
	whole := corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: amounts("cpu=2")}
	storage := corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Min: amounts("storage=1Gi"), Max: amounts("storage=10Gi")}
	for _, c := range []struct {
		name string
		item corev1.LimitRangeItem
		r    admissiontest.Request
		want string
	}{
		{"within", container, admissiontest.Request{Object: pod("cpu=250m", "cpu=1 memory=1Gi")}, ""},
		{"below the minimum", container, admissiontest.Request{Object: pod("cpu=50m", "cpu=100m memory=1Gi")},
			"minimum cpu usage per Container is 100m, but request is 50m"},
		{"no request", container, admissiontest.Request{Object: pod("", "cpu=1 memory=1Gi")}, "No request is specified"},
		{"above the maximum", container, admissiontest.Request{Object: pod("cpu=1", "cpu=1500m memory=1Gi")},
			"maximum cpu usage per Container is 1, but limit is 1500m"},
		{"no limit", container, admissiontest.Request{Object: pod("cpu=1", "cpu=1")}, "maximum memory usage per Container is 1Gi.  No limit is specified"},
		{"too great a ratio", container, admissiontest.Request{Object: pod("cpu=200m", "cpu=1 memory=1Gi")}, "provided ratio is 5.0"},
		{"exactly the ratio", container, admissiontest.Request{Object: pod("cpu=250m", "cpu=1 memory=1Gi")}, ""},
		{"one of two containers", container, admissiontest.Request{Object: pod("cpu=250m", "cpu=1 memory=1Gi", "cpu=1", "cpu=2 memory=1Gi")}, "but limit is 2"},
		{"a pod within", whole, admissiontest.Request{Object: pod("", "cpu=1", "", "cpu=1")}, ""},
		{"a pod above", whole, admissiontest.Request{Object: pod("", "cpu=1", "", "cpu=1500m")}, "maximum cpu usage per Pod is 2, but limit is 2500m"},
		{"a claim within", storage, admissiontest.Request{Object: claim("storage=5Gi")}, ""},
		{"a small claim", storage, admissiontest.Request{Object: claim("storage=1Mi")}, "minimum storage usage"},
		{"a large claim", storage, admissiontest.Request{Object: claim("storage=11Gi")}, "maximum storage usage per PersistentVolumeClaim is 10Gi"},
		{"a claim that grows", storage, admissiontest.Request{Object: claim("storage=11Gi"), Old: claim("storage=5Gi")}, "maximum storage usage"},
		{"an update of a pod", container, admissiontest.Request{Object: pod("cpu=50m", ""), Old: pod("cpu=50m", "")}, ""},
		{"a resize of a pod", container, admissiontest.Request{Object: pod("cpu=50m", "cpu=1 memory=1Gi"), Old: pod("cpu=250m", ""), Subresource: "resize"},
			"minimum cpu"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := New()
			admissiontest.Initialize(t, p, nil, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "l"},
				Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{c.item}}})
			err := admissiontest.Run(t, p, c.r)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	p := New()
	admissiontest.Initialize(t, p, nil, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "l"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
			{Type: corev1.LimitTypeContainer, Default: amounts("cpu=500m memory=1Gi"), DefaultRequest: amounts("cpu=100m")}}}})
	given := pod("cpu=200m", "", "", "cpu=1")
	if err := admissiontest.Run(t, p, admissiontest.Request{Object: given}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"200m 500m 1Gi", "100m 1 1Gi"} {
		r := given.Spec.Containers[i].Resources
		if got := r.Requests.Cpu().String() + " " + r.Limits.Cpu().String() + " " + r.Limits.Memory().String(); got != want {
			t.Errorf("container %d has %s, want %s", i, got, want)
		}
	}
	if note := given.Annotations[annotation]; !strings.Contains(note, "cpu, memory limit for container a") || !strings.Contains(note,
		"cpu request for container b") {
		t.Errorf("note %q", note)
	}
}

func TestARangeMadeAMomentAgoCounts(t *testing.T) {
	p := New()
	client := admissiontest.Initialize(t, p, nil)
	r := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "l"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Max: amounts("cpu=1")}}}}
	if _, err := client.CoreV1().LimitRanges("b").Create(t.Context(), r, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	given := pod("", "cpu=2")
	given.Namespace = "b"
	if err := admissiontest.Run(t, p, admissiontest.Request{Object: given}); err == nil {
		t.Error("the pod was accepted")
	}
}
