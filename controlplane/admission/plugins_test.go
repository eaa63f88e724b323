// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/admission/admissiontest"
	"github.com/fairlead/fairlead/controlplane/admission/alwayspullimages"
	"github.com/fairlead/fairlead/controlplane/admission/certificateapproval"
	"github.com/fairlead/fairlead/controlplane/admission/certificatesigning"
	"github.com/fairlead/fairlead/controlplane/admission/certificatesubject"
	"github.com/fairlead/fairlead/controlplane/admission/defaultingressclass"
	"github.com/fairlead/fairlead/controlplane/admission/defaultstorageclass"
	"github.com/fairlead/fairlead/controlplane/admission/defaulttolerationseconds"
	"github.com/fairlead/fairlead/controlplane/admission/denyexternalips"
	"github.com/fairlead/fairlead/controlplane/admission/ownerreferences"
	"github.com/fairlead/fairlead/controlplane/admission/podtopologylabels"
	"github.com/fairlead/fairlead/controlplane/admission/pvcresize"
	"github.com/fairlead/fairlead/controlplane/admission/storageobjectinuse"
	"github.com/fairlead/fairlead/controlplane/admission/taintnodesbycondition"
)

// one is a case of a plugin small enough to share a table.
type one struct {
	name    string
	plugin  admission.Interface
	may     authorizer.UnconditionalAuthorizer
	cluster []runtime.Object
	r       admissiontest.Request
	refused string
	then    func(t *testing.T, obj runtime.Object)
}

func meta(namespace, name string, annotations ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{}}
	for i := 0; i+1 < len(annotations); i += 2 {
		m.Annotations[annotations[i]] = annotations[i+1]
	}
	return m
}

func aged(m metav1.ObjectMeta, hours int) metav1.ObjectMeta {
	m.CreationTimestamp = metav1.NewTime(time.Date(2026, 1, 1, hours, 0, 0, 0, time.UTC))
	return m
}

func TestSmallPlugins(t *testing.T) {
	claim := func(class *string, size, phase string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: meta("a", "c"), Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.PersistentVolumeClaimPhase(phase)},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: class,
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse(size)}}}}
	}
	const isDefault = "storageclass.kubernetes.io/is-default-class"
	classes := []runtime.Object{
		&storagev1.StorageClass{ObjectMeta: aged(meta("", "old", isDefault, "true"), 1), AllowVolumeExpansion: ptr.To(true)},
		&storagev1.StorageClass{ObjectMeta: aged(meta("", "new", isDefault, "true"), 2)},
		&storagev1.StorageClass{ObjectMeta: aged(meta("", "newer", isDefault, "false"), 3)},
	}
	class := func(want string) func(*testing.T, runtime.Object) {
		return func(t *testing.T, obj runtime.Object) {
			if got := ptr.Deref(obj.(*corev1.PersistentVolumeClaim).Spec.StorageClassName, "none"); got != want {
				t.Errorf("class %s, want %s", got, want)
			}
		}
	}
	ingress := func(name *string, annotations ...string) *networkingv1.Ingress {
		return &networkingv1.Ingress{ObjectMeta: meta("a", "i", annotations...), Spec: networkingv1.IngressSpec{IngressClassName: name}}
	}
	ingressClass := func(want string) func(*testing.T, runtime.Object) {
		return func(t *testing.T, obj runtime.Object) {
			if got := ptr.Deref(obj.(*networkingv1.Ingress).Spec.IngressClassName, "none"); got != want {
				t.Errorf("class %s, want %s", got, want)
			}
		}
	}
	ingressClasses := []runtime.Object{
		&networkingv1.IngressClass{ObjectMeta: aged(meta("", "b", networkingv1.AnnotationIsDefaultIngressClass, "true"), 1)},
		&networkingv1.IngressClass{ObjectMeta: aged(meta("", "a", networkingv1.AnnotationIsDefaultIngressClass, "true"), 1)},
	}
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: meta("a", "p"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", ImagePullPolicy: corev1.PullNever}}}}
		if change != nil {
			change(p)
		}
		return p
	}
	tolerations := func(n int) func(*testing.T, runtime.Object) {
		return func(t *testing.T, obj runtime.Object) {
			if got := obj.(*corev1.Pod).Spec.Tolerations; len(got) != n {
				t.Errorf("tolerations %v, want %d", got, n)
			}
		}
	}
	zoned := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "z1", corev1.LabelTopologyRegion: "r1",
		"x": "y"}}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr := func(signer string, organizations ...string) *certificatesv1.CertificateSigningRequest {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x", Organization: organizations}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: meta("", "r"), Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
	}
	signed := csr("example.com/a")
	signed.Status.Certificate = []byte("x")
	garbage := csr(certificatesv1.KubeAPIServerClientSignerName)
	garbage.Spec.Request = []byte("garbage")
	owned := func(block bool) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "u", BlockOwnerDeletion: &block}}
		})
	}
	service := func(ips ...string) *corev1.Service {
		return &corev1.Service{ObjectMeta: meta("a", "s"), Spec: corev1.ServiceSpec{ExternalIPs: ips}}
	}

	for _, c := range []one{
		{name: "storage: the newest default class", plugin: defaultstorageclass.New(), cluster: classes, r: admissiontest.Request{Object: claim(nil, "1Gi", "")},
			then: class("new")},
		{name: "storage: a named class", plugin: defaultstorageclass.New(), cluster: classes, r: admissiontest.Request{Object: claim(ptr.To("x"), "1Gi", "")},
			then: class("x")},
		{name: "storage: no class on purpose", plugin: defaultstorageclass.New(), cluster: classes,
			r: admissiontest.Request{Object: claim(ptr.To(""), "1Gi", "")}, then: class("")},
		{name: "storage: no default", plugin: defaultstorageclass.New(), cluster: classes[2:], r: admissiontest.Request{Object: claim(nil, "1Gi", "")},
			then: class("none")},

		{name: "resize: the class allows it", plugin: pvcresize.New(), cluster: classes, r: admissiontest.Request{Object: claim(ptr.To("old"), "2Gi", "Bound"),
			Old: claim(ptr.To("old"), "1Gi", "Bound")}},
		{name: "resize: the class does not", plugin: pvcresize.New(), cluster: classes, refused: "has allowVolumeExpansion",
			r: admissiontest.Request{Object: claim(ptr.To("new"), "2Gi", "Bound"), Old: claim(ptr.To("new"), "1Gi", "Bound")}},
		{name: "resize: no class", plugin: pvcresize.New(), cluster: classes, refused: "has allowVolumeExpansion",
			r: admissiontest.Request{Object: claim(nil, "2Gi", "Bound"), Old: claim(nil, "1Gi", "Bound")}},
		{name: "resize: not bound", plugin: pvcresize.New(), cluster: classes, refused: "only bound",
			r: admissiontest.Request{Object: claim(ptr.To("old"), "2Gi", "Pending"), Old: claim(ptr.To("old"), "1Gi", "Pending")}},
		{name: "resize: nothing grows", plugin: pvcresize.New(), cluster: classes, r: admissiontest.Request{Object: claim(nil, "1Gi", "Bound"),
			Old: claim(nil, "1Gi", "Bound")}},

		{name: "in use: a claim is protected", plugin: storageobjectinuse.New(), r: admissiontest.Request{Object: claim(nil, "1Gi", "")},
			then: func(t *testing.T, o runtime.Object) {
				if f := o.(*corev1.PersistentVolumeClaim).Finalizers; len(f) != 1 || f[0] != "kubernetes.io/pvc-protection" {
					t.Errorf("finalizers %q", f)
				}
			}},
		{name: "in use: a volume is protected", plugin: storageobjectinuse.New(),
			r: admissiontest.Request{Object: &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v", Finalizers: []string{"kubernetes.io/pv-protection"}}}},
			then: func(t *testing.T, o runtime.Object) {
				if f := o.(*corev1.PersistentVolume).Finalizers; len(f) != 1 {
					t.Errorf("finalizers %q", f)
				}
			}},

		{name: "ingress: of equal defaults the first", plugin: defaultingressclass.New(), cluster: ingressClasses,
			r: admissiontest.Request{Object: ingress(nil), Resource: "ingresses"}, then: ingressClass("a")},
		{name: "ingress: a named class", plugin: defaultingressclass.New(), cluster: ingressClasses,
			r: admissiontest.Request{Object: ingress(ptr.To("x")), Resource: "ingresses"}, then: ingressClass("x")},
		{name: "ingress: named the old way", plugin: defaultingressclass.New(), cluster: ingressClasses,
			r: admissiontest.Request{Object: ingress(nil, "kubernetes.io/ingress.class", "x"), Resource: "ingresses"}, then: ingressClass("none")},

		{name: "tolerations: both are added", plugin: defaulttolerationseconds.New(), r: admissiontest.Request{Object: pod(nil)}, then: tolerations(2)},
		{name: "tolerations: one is there", plugin: defaulttolerationseconds.New(), then: tolerations(2), r: admissiontest.Request{Object: pod(func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
		})}},
		{name: "tolerations: everything is tolerated", plugin: defaulttolerationseconds.New(), then: tolerations(1),
			r: admissiontest.Request{Object: pod(func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
			})}},

		{name: "node: is tainted once", plugin: taintnodesbycondition.New(), then: func(t *testing.T, o runtime.Object) {
			if taints := o.(*corev1.Node).Spec.Taints; len(taints) != 1 {
				t.Errorf("taints %v", taints)
			}
		}, r: admissiontest.Request{Object: &corev1.Node{ObjectMeta: meta("", "n"), Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeNotReady,
			Effect: corev1.TaintEffectNoSchedule}}}}}},

		{name: "topology: a binding gets the labels", plugin: podtopologylabels.New(), cluster: []runtime.Object{zoned}, then: func(t *testing.T, o runtime.Object) {
			if l := o.(*corev1.Binding).Labels; l[corev1.LabelTopologyZone] != "z1" || l[corev1.LabelTopologyRegion] != "r1" || len(l) != 2 {
				t.Errorf("labels %v", l)
			}
		}, r: admissiontest.Request{Object: &corev1.Binding{ObjectMeta: meta("a", "p"), Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}},
			Resource: "pods", Subresource: "binding"}},
		{name: "topology: an unknown node", plugin: podtopologylabels.New(), r: admissiontest.Request{Object: pod(func(p *corev1.Pod) { p.Spec.NodeName = "nope" })}},

		{name: "pull: always", plugin: alwayspullimages.New(), r: admissiontest.Request{Object: pod(nil)}, then: func(t *testing.T, o runtime.Object) {
			if got := o.(*corev1.Pod).Spec.Containers[0].ImagePullPolicy; got != corev1.PullAlways {
				t.Errorf("pull policy %s", got)
			}
		}},

		{name: "addresses: a new one", plugin: denyexternalips.New(), r: admissiontest.Request{Object: service("192.0.2.1")}, refused: "external IPs is denied"},
		{name: "addresses: one more", plugin: denyexternalips.New(), r: admissiontest.Request{Object: service("192.0.2.1", "192.0.2.2"),
			Old: service("192.0.2.1")}, refused: "external IPs is denied"},
		{name: "addresses: one less", plugin: denyexternalips.New(), r: admissiontest.Request{Object: service("192.0.2.1"), Old: service("192.0.2.1", "192.0.2.2")}},

		{name: "approval: without the right", plugin: certificateapproval.New(), may: admissiontest.May(), refused: "not permitted to approve",
			r: admissiontest.Request{Object: csr("example.com/a"), Old: csr("example.com/a"), Subresource: "approval"}},
		{name: "approval: with it", plugin: certificateapproval.New(), may: admissiontest.May("approve signers example.com/a"),
			r: admissiontest.Request{Object: csr("example.com/a"), Old: csr("example.com/a"), Subresource: "approval"}},
		{name: "approval: for the whole domain", plugin: certificateapproval.New(), may: admissiontest.May("approve signers example.com/*"),
			r: admissiontest.Request{Object: csr("example.com/a"), Old: csr("example.com/a"), Subresource: "approval"}},
		{name: "approval: the signer named now does not count, the one asked for does", plugin: certificateapproval.New(),
			may:     admissiontest.May("approve signers example.com/mine"),
			refused: "not permitted to approve", r: admissiontest.Request{Object: csr("example.com/mine"), Old: csr("example.com/a"), Subresource: "approval"}},
		{name: "signing: without the right", plugin: certificatesigning.New(), may: admissiontest.May("approve signers example.com/a"),
			refused: "not permitted to sign",
			r:       admissiontest.Request{Object: signed, Old: csr("example.com/a"), Subresource: "status"}},
		{name: "signing: with it", plugin: certificatesigning.New(), may: admissiontest.May("sign signers example.com/a"),
			r: admissiontest.Request{Object: signed, Old: csr("example.com/a"), Subresource: "status"}},
		{name: "signing: nothing is signed", plugin: certificatesigning.New(), may: admissiontest.May(),
			r: admissiontest.Request{Object: csr("example.com/a"), Old: csr("example.com/a"), Subresource: "status"}},
		{name: "subject: system:masters as API client", plugin: certificatesubject.New(), refused: "system:masters",
			r: admissiontest.Request{Object: csr(certificatesv1.KubeAPIServerClientSignerName, "a", "system:masters")}},
		{name: "subject: of another signer", plugin: certificatesubject.New(), r: admissiontest.Request{Object: csr("example.com/a", "system:masters")}},
		{name: "subject: garbage", plugin: certificatesubject.New(), refused: "no PEM block", r: admissiontest.Request{Object: garbage}},

		{name: "owners: new object, no blocking", plugin: ownerreferences.New(), may: admissiontest.May(), r: admissiontest.Request{Object: owned(false)}},
		{name: "owners: blocking without the right", plugin: ownerreferences.New(), may: admissiontest.May(), refused: "cannot set blockOwnerDeletion",
			r: admissiontest.Request{Object: owned(true)}},
		{name: "owners: blocking with it", plugin: ownerreferences.New(), may: admissiontest.May("update replicasets/finalizers rs"),
			r: admissiontest.Request{Object: owned(true)}},
		{name: "owners: adopting without the right to delete", plugin: ownerreferences.New(), may: admissiontest.May(), refused: "can't delete",
			r: admissiontest.Request{Object: owned(false), Old: pod(nil)}},
		{name: "owners: adopting with it", plugin: ownerreferences.New(), may: admissiontest.May("delete pods p"),
			r: admissiontest.Request{Object: owned(false), Old: pod(nil)}},
		{name: "owners: an unrelated update", plugin: ownerreferences.New(), may: admissiontest.May(),
			r: admissiontest.Request{Object: owned(true), Old: owned(true)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			admissiontest.Initialize(t, c.plugin, c.may, c.cluster...)
			err := admissiontest.Run(t, c.plugin, c.r)
			if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Fatalf("error %v, want one with %q", err, c.refused)
			}
			if c.then != nil {
				c.then(t, c.r.Object)
			}
		})
	}
}
