// SPDX-License-Identifier: Apache-2.0

package serviceaccount

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/admission/admissiontest"
)

func account(name string, change func(*corev1.ServiceAccount)) *corev1.ServiceAccount {
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
	if change != nil {
		change(sa)
	}
	return sa
}

func pod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i"}}, Containers: []corev1.Container{{Name: "c"}, {Name: "d"}}}}
	if change != nil {
		change(p)
	}
	return p
}

func TestPods(t *testing.T) {
	p := New()
	admissiontest.Initialize(t, p, nil,
		account("default", func(sa *corev1.ServiceAccount) { sa.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}} }),
		account("quiet", func(sa *corev1.ServiceAccount) { sa.AutomountServiceAccountToken = ptr.To(false) }),
		account("strict", func(sa *corev1.ServiceAccount) {
			sa.Annotations = map[string]string{"kubernetes.io/enforce-mountable-secrets": "true"}
			sa.Secrets = []corev1.ObjectReference{{Name: "ok"}}
		}))
	secretVolume := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "strict"
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}}
		}
	}
	mirror := func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }
	for _, c := range []struct {
		name    string
		pod     *corev1.Pod
		refused string
		account string
		mounts  int // containers with the token
		pull    int
	}{
		{"names nothing", pod(nil), "", "default", 3, 1},
		{"names its account", pod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet" }), "", "quiet", 0, 0},
		{"wants the token although its account does not", pod(func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.AutomountServiceAccountToken = "quiet", ptr.To(true)
		}), "", "quiet", 3, 0},
		{"wants no token", pod(func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr.To(false) }), "", "default", 0, 1},
		{"mounts something there itself", pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "own", MountPath: MountPath}}
		}), "", "default", 2, 1},
		{"brings its own pull secret", pod(func(p *corev1.Pod) {
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "x"}, {Name: "y"}}
		}), "", "default", 3, 2},
		{"names an account that is not there", pod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "nobody" }), "error looking up service account a/nobody", "",
			0, 0},
		{"a listed secret of a strict account", pod(secretVolume("ok")), "", "strict", 3, 0},
		{"another secret of a strict account", pod(secretVolume("bad")), "does not reference that secret", "", 0, 0},
		{"a mirror", pod(mirror), "", "", 0, 0},
		{"a mirror with an account", pod(func(p *corev1.Pod) { mirror(p); p.Spec.ServiceAccountName = "default" }), "may not reference service accounts", "", 0, 0},
		{"a mirror with a token", pod(func(p *corev1.Pod) {
			mirror(p)
			p.Spec.Volumes = []corev1.Volume{{Name: "t", VolumeSource: corev1.VolumeSource{Projected: TokenVolume()}}}
		}), "may not use ServiceAccountToken", "", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := admissiontest.Run(t, p, admissiontest.Request{Object: c.pod})
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("error %v, want one with %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.pod.Spec.ServiceAccountName != c.account || len(c.pod.Spec.ImagePullSecrets) != c.pull {
				t.Errorf("account %q, pull secrets %v", c.pod.Spec.ServiceAccountName, c.pod.Spec.ImagePullSecrets)
			}
			mounts := 0
			for _, container := range append(c.pod.Spec.InitContainers, c.pod.Spec.Containers...) {
				for _, m := range container.VolumeMounts {
					if strings.HasPrefix(m.Name, VolumePrefix) && m.MountPath == MountPath && m.ReadOnly {
						mounts++
					}
				}
			}
			if mounts != c.mounts {
				t.Errorf("%d containers have the token, want %d", mounts, c.mounts)
			}
			volumes := 0
			for _, v := range c.pod.Spec.Volumes {
				if v.Projected != nil {
					volumes++
				}
			}
			if volumes != min(c.mounts, 1) {
				t.Errorf("%d projected volumes", volumes)
			}
		})
	}
}

func TestADefaultAccountInTheMakingIsWaitedFor(t *testing.T) {
	p := New()
	client := admissiontest.Initialize(t, p, nil)
	done := make(chan error, 1)
	go func() { done <- admissiontest.Run(t, p, admissiontest.Request{Object: pod(nil)}) }()
	if _, err := client.CoreV1().ServiceAccounts("a").Create(t.Context(), account("default", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
