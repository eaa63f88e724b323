// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/admission/admissiontest"
	"github.com/fairlead/fairlead/controlplane/auth/rbac"
)

func nodeUser(name string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{"system:nodes"}}
}

// webPod runs on n1 and uses one thing of each kind.
func webPod() *corev1.Pod {
	secretEnv := corev1.EnvVar{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "env-secret"}}}}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web", UID: "web-uid"}, Spec: corev1.PodSpec{
		NodeName: "n1", ServiceAccountName: "bot", ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull-secret"}},
		InitContainers: []corev1.Container{{Env: []corev1.EnvVar{secretEnv}}},
		Containers:     []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "from-map"}}}}}},
		Volumes: []corev1.Volume{
			{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "volume-secret"}}},
			{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "projected-secret"}}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "projected-map"}}},
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault", Path: "t"}},
			}}}},
			{Name: "c", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
			{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		},
		ResourceClaims: []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("gpu-claim")}},
	}}
}

func dataVolume() *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv1"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "a", Name: "data"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			NodeStageSecretRef:         &corev1.SecretReference{Namespace: "storage", Name: "stage-secret"},
			ControllerPublishSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "controller-secret"}}},
	}}
}

func index() *Index {
	x := newIndex()
	x.setPod(webPod())
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "other"}, Spec: corev1.PodSpec{NodeName: "n2", ServiceAccountName: "other"}}
	x.setPod(other)
	x.setVolume(dataVolume())
	x.setAttachment(&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va1"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}})
	return x
}

func TestAuthorizer(t *testing.T) {
	policy, err := rbac.DefaultPolicy()
	if err != nil {
		t.Fatal(err)
	}
	a := NewAuthorizer(index(), policy.NodeRules(), nil)
	for _, c := range []struct {
		name, what string // verb group/resource[/sub] [namespace]/name [field=value]
		n1, n2     bool
	}{
		{"secret of a volume", "get /secrets a/volume-secret", true, false},
		{"secret of a projection", "get /secrets a/projected-secret", true, false},
		{"secret in the environment", "get /secrets a/env-secret", true, false},
		{"pull secret", "get /secrets a/pull-secret", true, false},
		{"watch of one secret", "watch /secrets a/pull-secret", true, false},
		{"secret to stage a volume", "get /secrets storage/stage-secret", true, false},
		{"secret of the volume's controller", "get /secrets storage/controller-secret", false, false},
		{"unused secret", "get /secrets a/nope", false, false},
		{"same name in another namespace", "get /secrets b/volume-secret", false, false},
		{"all secrets", "list /secrets a/", false, false},
		{"write of a used secret", "update /secrets a/volume-secret", false, false},
		{"config map of envFrom", "get /configmaps a/from-map", true, false},
		{"config map of a projection", "get /configmaps a/projected-map", true, false},
		{"claim", "get /persistentvolumeclaims a/data", true, false},
		{"status of a claim", "patch /persistentvolumeclaims/status a/data", true, false},
		{"claim of an ephemeral volume", "get /persistentvolumeclaims a/web-e", true, false},
		{"volume of a claim", "get /persistentvolumes /pv1", true, false},
		{"attachment", "get storage.k8s.io/volumeattachments /va1", true, false},
		{"device claim", "get resource.k8s.io/resourceclaims a/gpu-claim", true, false},
		{"token of a pod's account", "create /serviceaccounts/token a/bot", true, false},
		{"token of another node's account", "create /serviceaccounts/token a/other", false, true},
		{"own node", "get /nodes /n1", true, false},
		{"own node by selector", "watch /nodes / metadata.name=n1", true, false},
		{"all nodes", "list /nodes /", false, false},
		{"status of a node (admission compares the name)", "patch /nodes/status /n1", true, true},
		{"own pods", "list /pods / spec.nodeName=n1", true, false},
		{"all pods", "list /pods /", false, false},
		{"pod on the node", "get /pods a/web", true, false},
		{"status of a pod (admission compares the node)", "patch /pods/status a/web", true, true},
		{"own lease", "update coordination.k8s.io/leases kube-node-lease/n1", true, false},
		{"lease elsewhere", "update coordination.k8s.io/leases kube-system/n1", false, false},
		{"new lease", "create coordination.k8s.io/leases kube-node-lease/", true, true},
		{"own CSINode", "update storage.k8s.io/csinodes /n1", true, false},
		{"own slices", "list resource.k8s.io/resourceslices / spec.nodeName=n1", true, false},
		{"all slices", "list resource.k8s.io/resourceslices /", false, false},
		{"services are everybody's", "list /services /", true, true},
		{"roles are nobody's", "get rbac.authorization.k8s.io/roles a/x", false, false},
		{"deleting a node", "delete /nodes /n1", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := strings.Fields(c.what)
			group, rest, _ := strings.Cut(w[1], "/")
			r := authorizer.AttributesRecord{Verb: w[0], APIGroup: group, ResourceRequest: true}
			r.Resource, r.Subresource, _ = strings.Cut(rest, "/")
			r.Namespace, r.Name, _ = strings.Cut(w[2], "/")
			if len(w) > 3 {
				selector, err := fields.ParseSelector(w[3])
				if err != nil {
					t.Fatal(err)
				}
				r.FieldSelectorRequirements = selector.Requirements()
			}
			for node, want := range map[string]bool{"n1": c.n1, "n2": c.n2} {
				r.User = nodeUser(node)
				decision, reason, err := a.Authorize(t.Context(), r)
				if err != nil || (decision == authorizer.DecisionAllow) != want || decision == authorizer.DecisionDeny {
					t.Errorf("%s: %v (%s) %v, want allowed: %v", node, decision, reason, err, want)
				}
			}
			r.User = &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"dev"}}
			if decision, _, _ := a.Authorize(t.Context(), r); decision != authorizer.DecisionNoOpinion {
				t.Errorf("a user of a node's name without its group: %v", decision)
			}
		})
	}
}

func TestIndexForgets(t *testing.T) {
	x := index()
	second := webPod()
	second.Name = "second"
	x.setPod(second)
	secret := object{secrets, "a", "volume-secret"}
	x.deletePod(webPod())
	if !x.uses("n1", secret) {
		t.Error("a secret that another pod of the node still uses was forgotten")
	}
	changed := second.DeepCopy()
	changed.Spec.Volumes = nil
	x.setPod(changed)
	if x.uses("n1", secret) || x.usesVolume("n1", "pv1") {
		t.Error("what no pod uses any more is still allowed")
	}
	x.deletePod(second)
	x.deletePod(second)
	x.deleteVolume(dataVolume())
	x.deletePod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "other"}})
	if len(x.pods)+len(x.users)+len(x.volumes)+len(x.secretVolumes) != 0 {
		t.Errorf("rows are left: %v %v %v %v", x.pods, x.users, x.volumes, x.secretVolumes)
	}
}

func TestRestriction(t *testing.T) {
	self := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "n1-uid"}}
	onOther := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "other", UID: "other-uid"}, Spec: corev1.PodSpec{NodeName: "n2"}}
	mirror := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "m", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "n1-uid"}}}, Spec: corev1.PodSpec{NodeName: "n1"}}
		if change != nil {
			change(p)
		}
		return p
	}
	node := func(name string, change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}
		if change != nil {
			change(n)
		}
		return n
	}
	label := func(k string) func(*corev1.Node) { return func(n *corev1.Node) { n.Labels[k] = "x" } }
	token := func(kind, name, uid string, audiences ...string) runtime.Object {
		return &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "bot"},
			Spec: authenticationv1.TokenRequestSpec{Audiences: audiences,
				BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}}}
	}
	lease := func(namespace, name string) runtime.Object {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr := func(cn string) runtime.Object {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn,
			Organization: []string{"system:nodes"}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: certificatesv1.KubeletServingSignerName, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
	}
	relabeled := webPod()
	relabeled.Labels = map[string]string{"app": "x"}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "data"}}
	grown, renamed := claim.DeepCopy(), claim.DeepCopy()
	grown.Status.Capacity = corev1.ResourceList{}
	grown.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimResizing}}
	renamed.Spec.VolumeName = "x"
	type request = admissiontest.Request
	for _, c := range []struct {
		name string
		r    request
		want string
	}{
		{"a mirror of its own", request{Object: mirror(nil)}, ""},
		{"an ordinary pod", request{Object: mirror(func(p *corev1.Pod) { p.Annotations = nil })}, "only create mirror pods"},
		{"a mirror on another node", request{Object: mirror(func(p *corev1.Pod) { p.Spec.NodeName = "n2" })}, "spec.nodeName set to itself"},
		{"a mirror without owner", request{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences = nil })}, "owner reference"},
		{"a mirror owned by another node", request{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences[0].Name = "n2" })}, "owner reference"},
		{"a mirror owned by a former node", request{Object: mirror(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "old" })}, "UID"},
		{"a mirror with a secret", request{Object: mirror(func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "x"}} })},
			"reference secrets"},
		{"a mirror with an account", request{Object: mirror(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" })}, "reference serviceaccounts"},
		{"status of its pod", request{Object: webPod(), Old: webPod(), Subresource: "status"}, ""},
		{"labels by status", request{Object: relabeled, Old: webPod(), Subresource: "status"}, "cannot update labels"},
		{"status of another's pod", request{Object: onOther, Old: onOther, Subresource: "status"}, "set to itself"},
		{"deleting its pod", request{Object: webPod(), Delete: true}, ""},
		{"deleting another's pod", request{Object: onOther, Delete: true}, "set to itself"},
		{"evicting another's pod", request{Object: onOther, Resource: "pods", Subresource: "eviction"}, "set to itself"},
		{"a pod's spec", request{Object: webPod(), Old: webPod()}, "unexpected operation"},
		{"its own node", request{Object: node("n1", nil)}, ""},
		{"another node", request{Object: node("n2", nil)}, `not allowed to modify node "n2"`},
		{"a label of the kubelet", request{Object: node("n1", label("node.kubernetes.io/instance-type"))}, ""},
		{"a label of its own domain", request{Object: node("n1", label("example.com/rack"))}, ""},
		{"a trusted label", request{Object: node("n1", label("node-restriction.kubernetes.io/pci"))}, "node-restriction.kubernetes.io/pci"},
		{"a role", request{Object: node("n1", label("node-role.kubernetes.io/control-plane"))}, "node-role"},
		{"a trusted label taken away", request{Object: node("n1", nil), Old: node("n1", label("node-restriction.kubernetes.io/pci"))},
			"not allowed to modify labels"},
		{"a trusted label kept", request{Object: node("n1", label("node-restriction.kubernetes.io/pci")),
			Old: node("n1", label("node-restriction.kubernetes.io/pci"))}, ""},
		{"a taint taken away", request{Object: node("n1", nil), Old: node("n1", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "x"}} })},
			"modify taints"},
		{"a token for its pod", request{Object: token("Pod", "web", "web-uid"), Resource: "/serviceaccounts", Subresource: "token"}, ""},
		{"for an audience of the pod", request{Object: token("Pod", "web", "web-uid", "vault"), Resource: "/serviceaccounts", Subresource: "token"}, ""},
		{"for another audience", request{Object: token("Pod", "web", "web-uid", "bank"), Resource: "/serviceaccounts", Subresource: "token"}, "audience"},
		{"a token without uid", request{Object: token("Pod", "web", ""), Resource: "/serviceaccounts", Subresource: "token"}, "without a uid"},
		{"a token for a former pod", request{Object: token("Pod", "web", "old"), Resource: "/serviceaccounts", Subresource: "token"}, "does not match"},
		{"a token for another's pod", request{Object: token("Pod", "other", "other-uid"), Resource: "/serviceaccounts", Subresource: "token"}, "different node"},
		{"a token bound to a secret", request{Object: token("Secret", "web", "web-uid"), Resource: "/serviceaccounts", Subresource: "token"}, "not bound to a pod"},
		{"its lease", request{Object: lease("kube-node-lease", "n1")}, ""},
		{"another's lease", request{Object: lease("kube-node-lease", "n2")}, "same name"},
		{"a lease elsewhere", request{Object: lease("kube-system", "n1")}, "kube-node-lease"},
		{"its CSINode", request{Object: &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}}, ""},
		{"another's CSINode", request{Object: &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}}, "same name"},
		{"its slice", request{Object: &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{NodeName: ptr.To("n1")}}}, ""},
		{"a slice of all nodes", request{Object: &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{AllNodes: ptr.To(true)}}}, "same NodeName"},
		{"a claim's progress", request{Object: grown, Old: claim, Subresource: "status"}, ""},
		{"a claim's volume", request{Object: renamed, Old: claim, Subresource: "status"}, "not allowed to update fields"},
		{"a certificate in its name", request{Object: csr("system:node:n1")}, ""},
		{"a certificate in another's name", request{Object: csr("system:node:n2")}, "CN=system:node:n1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewRestriction()
			admissiontest.Initialize(t, p, admissiontest.May(), self, webPod(), onOther)
			c.r.User = nodeUser("n1")
			err := admissiontest.Run(t, p, c.r)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			c.r.User = &user.DefaultInfo{Name: "somebody"}
			if err := admissiontest.Run(t, p, c.r); err != nil {
				t.Errorf("an ordinary user is restricted too: %v", err)
			}
		})
	}
}
