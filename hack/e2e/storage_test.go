// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestAClaimIsProvisionedNearItsPod: a class whose provisioner is this test. The scheduler chooses the node, the binder hands the claim over, and what the provisioner makes is bound,
// mounted, released and deleted.
func TestAClaimIsProvisionedNearItsPod(t *testing.T) {
	const provisioner = "e2e.fairlead.io"
	ns := inNamespace(t, "e2e-dynamic")
	kubectl(t, "delete", "storageclass", "e2e-dynamic", "--ignore-not-found")
	apply(t, `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: e2e-dynamic}
provisioner: `+provisioner+`
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: `+ns+`}
spec: {storageClassName: e2e-dynamic, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: `+ns+`}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "fairlead.io/sample:latest", imagePullPolicy: IfNotPresent, command: [/sample, serve, --drain=0s], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`)
	t.Cleanup(func() { kubectl(t, "delete", "storageclass", "e2e-dynamic", "--ignore-not-found") })
	var claim *corev1.PersistentVolumeClaim
	eventually(t, 30*time.Second, func() (err error) {
		claim, err = env.client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "data", metav1.GetOptions{})
		if err == nil && (claim.Annotations["volume.kubernetes.io/selected-node"] == "" || claim.Annotations["volume.kubernetes.io/storage-provisioner"] != provisioner) {
			err = fmt.Errorf("the claim is not handed over: %v", claim.Annotations)
		}
		return err
	})
	node := claim.Annotations["volume.kubernetes.io/selected-node"]
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "e2e-" + string(claim.UID), Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": provisioner}}, Spec: corev1.PersistentVolumeSpec{
		Capacity: claim.Spec.Resources.Requests, AccessModes: claim.Spec.AccessModes, StorageClassName: "e2e-dynamic", PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
		ClaimRef:               &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: "data", UID: claim.UID},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/run/e2e-dynamic", Type: ptr.To(corev1.HostPathDirectoryOrCreate)}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}},
	}}
	volumes := env.client.CoreV1().PersistentVolumes()
	if _, err := volumes.Create(t.Context(), pv, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "-n", ns, "wait", "pod/p", "--for=condition=Ready", "--timeout=60s")
	if on := strings.TrimSpace(kubectl(t, "-n", ns, "get", "pod", "p", "-o", "jsonpath={.spec.nodeName}")); on != node {
		t.Errorf("the pod runs on %s, its volume was made for %s", on, node)
	}
	// The claim stays as long as the pod uses it.
	kubectl(t, "-n", ns, "delete", "pvc", "data", "--wait=false")
	if phase := kubectl(t, "-n", ns, "get", "pvc", "data", "-o", "jsonpath={.status.phase}"); phase != "Bound" {
		t.Errorf("a claim in use is %q after its deletion", phase)
	}
	kubectl(t, "-n", ns, "delete", "pod", "p")
	eventually(t, 30*time.Second, func() error {
		got, err := volumes.Get(t.Context(), pv.Name, metav1.GetOptions{})
		if err == nil && got.Status.Phase != corev1.VolumeReleased {
			err = fmt.Errorf("the volume is %s, want Released", got.Status.Phase)
		}
		return err
	})
	if err := volumes.Delete(t.Context(), pv.Name, metav1.DeleteOptions{}); err != nil { // the provisioner's part
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error {
		if _, err := volumes.Get(t.Context(), pv.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("get the released and deleted volume: %v, want NotFound", err)
		}
		return nil
	})
}

// TestAVolumeIsAttachedWhereItsPodIsAndDetachedAfterIt: the attacher is this test; the driver runs on no node, so the pod waits for its mount.
func TestAVolumeIsAttachedWhereItsPodIsAndDetachedAfterIt(t *testing.T) {
	ns := inNamespace(t, "e2e-attach")
	apply(t, `
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: attach.e2e.fairlead.io}
spec: {attachRequired: true}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-attach}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: `+ns+`, name: data}
  csi: {driver: attach.e2e.fairlead.io, volumeHandle: one}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: `+ns+`}
spec: {storageClassName: "", volumeName: e2e-attach, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: `+ns+`}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "fairlead.io/sample:latest", imagePullPolicy: IfNotPresent, command: [/sample, serve], volumeMounts: [{name: data, mountPath: /data}]}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`)
	t.Cleanup(func() {
		kubectl(t, "delete", "pv/e2e-attach", "csidriver/attach.e2e.fairlead.io", "--ignore-not-found", "--wait=false")
	})
	attachments := env.client.StorageV1().VolumeAttachments()
	find := func(ctx context.Context) (*storagev1.VolumeAttachment, error) {
		list, err := attachments.List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			if list.Items[i].Spec.Attacher == "attach.e2e.fairlead.io" {
				return &list.Items[i], nil
			}
		}
		return nil, nil
	}
	var attachment *storagev1.VolumeAttachment
	eventually(t, 30*time.Second, func() (err error) {
		if attachment, err = find(t.Context()); err == nil && attachment == nil {
			err = fmt.Errorf("no VolumeAttachment was made")
		}
		return err
	})
	if on := strings.TrimSpace(kubectl(t, "-n", ns, "get", "pod", "p", "-o", "jsonpath={.spec.nodeName}")); on != attachment.Spec.NodeName {
		t.Errorf("attached to %s, the pod is on %s", attachment.Spec.NodeName, on)
	}
	attachment.Status.Attached = true
	if _, err := attachments.UpdateStatus(t.Context(), attachment, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error {
		attached := kubectl(t, "get", "node", attachment.Spec.NodeName, "-o", "jsonpath={.status.volumesAttached[*].name}")
		if !strings.Contains(attached, "kubernetes.io/csi/attach.e2e.fairlead.io^one") {
			return fmt.Errorf("the node is told of %q", attached)
		}
		return nil
	})
	kubectl(t, "-n", ns, "delete", "pod", "p")
	eventually(t, 60*time.Second, func() error {
		if a, err := find(t.Context()); err != nil || a != nil {
			return fmt.Errorf("the pod is gone and its volume is still attached (%v)", err)
		}
		return nil
	})
}

// TestADeviceIsAllocatedWhereItIsAndGivenBack: one device on one node, two pods that ask for one. The slice is published by this test; no driver prepares
// the device, so the first pod waits for that. The slice names its node by a selector: those of a node's own are taken away with their driver.
func TestADeviceIsAllocatedWhereItIsAndGivenBack(t *testing.T) {
	ns := inNamespace(t, "e2e-devices")
	nodes, err := env.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node := nodes.Items[len(nodes.Items)-1].Name
	slices := env.client.ResourceV1().ResourceSlices()
	_ = slices.Delete(t.Context(), "e2e-devices", metav1.DeleteOptions{})
	if _, err := slices.Create(t.Context(), &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "e2e-devices"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "devices.e2e.fairlead.io", Pool: resourcev1.ResourcePool{Name: "e2e-" + node, ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "one"}},
		NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kubectl(t, "delete", "resourceslice/e2e-devices", "deviceclass/e2e.fairlead.io", "--ignore-not-found", "--wait=false")
	})
	pod := func(name string) string {
		return `
---
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `, namespace: ` + ns + `}
spec:
  terminationGracePeriodSeconds: 0
  resourceClaims: [{name: device, resourceClaimTemplateName: one}]
  containers: [{name: c, image: "fairlead.io/sample:latest", imagePullPolicy: IfNotPresent, command: [/sample, serve], resources: {claims: [{name: device}]}}]
`
	}
	apply(t, `
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: e2e.fairlead.io}
spec: {selectors: [{cel: {expression: 'device.driver == "devices.e2e.fairlead.io"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one, namespace: `+ns+`}
spec: {spec: {devices: {requests: [{name: d, exactly: {deviceClassName: e2e.fairlead.io}}]}}}
`+pod("a"))
	on := func(name string) string {
		return strings.TrimSpace(kubectl(t, "-n", ns, "get", "pod", name, "-o", "jsonpath={.spec.nodeName}"))
	}
	eventually(t, 30*time.Second, func() error {
		if got := on("a"); got != node {
			return fmt.Errorf("pod a is on %q, its device is on %s", got, node)
		}
		return nil
	})
	claims, err := env.client.ResourceV1().ResourceClaims(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(claims.Items) != 1 || claims.Items[0].Status.Allocation == nil || len(claims.Items[0].Status.ReservedFor) != 1 {
		t.Fatalf("claims %+v (%v), want one that is allocated and reserved", claims.Items, err)
	}
	apply(t, pod("b"))
	eventually(t, 30*time.Second, func() error {
		message := kubectl(t, "-n", ns, "get", "pod", "b", "-o", `jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}`)
		if !strings.Contains(message, "cannot allocate all claims") {
			return fmt.Errorf("pod b, for which there is no device, says %q", message)
		}
		return nil
	})
	kubectl(t, "-n", ns, "delete", "pod", "a")
	eventually(t, 60*time.Second, func() error {
		if got := on("b"); got != node {
			return fmt.Errorf("pod a is gone and pod b is on %q", got)
		}
		return nil
	})
	kubectl(t, "-n", ns, "delete", "pod", "b")
	eventually(t, 30*time.Second, func() error {
		left, err := env.client.ResourceV1().ResourceClaims(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil || len(left.Items) != 0 {
			return fmt.Errorf("%d claims are left after their pods (%v)", len(left.Items), err)
		}
		return nil
	})
}
