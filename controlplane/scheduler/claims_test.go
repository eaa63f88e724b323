// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func deviceClaim(name string) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "gpu",
			Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}}}}}
}

func withDevices(claim string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "gpu", ResourceClaimName: &claim}}
	}
}

func TestDeviceClaimsAreAllocatedReservedAndNotGivenTwice(t *testing.T) {
	first, second := deviceClaim("first"), deviceClaim("second")
	first.UID, second.UID = "first", "second"
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice"}, Spec: resourcev1.ResourceSliceSpec{Driver: "gpu.example",
		Pool: resourcev1.ResourcePool{Name: "n2", Generation: 1, ResourceSliceCount: 1}, NodeName: ptr.To("n2"), Devices: []resourcev1.Device{{Name: "gpu-0"}}}}
	w := newWorldWith(t, Config{}, func(c *fake.Clientset) {
		c.Discovery().(*fakediscovery.FakeDiscovery).Resources = []*metav1.APIResourceList{{GroupVersion: "resource.k8s.io/v1",
			APIResources: []metav1.APIResource{{Name: "resourceslices"}}}}
	}, node("n1", "64"), node("n2", "4"), &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}, slice, first, second)
	w.create(pod("a", "1", withDevices("first")))
	if p := w.bound("a"); p.Spec.NodeName != "n2" {
		t.Errorf("a is on %s, want n2, which has the device", p.Spec.NodeName)
	}
	claim, err := w.client.ResourceV1().ResourceClaims("default").Get(w.ctx, "first", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if a := claim.Status.Allocation; a == nil || len(a.Devices.Results) != 1 || a.Devices.Results[0].Device != "gpu-0" || len(claim.Status.ReservedFor) != 1 ||
		len(claim.Finalizers) != 1 {
		t.Errorf("the claim is %+v with finalizers %v", claim.Status, claim.Finalizers)
	}
	w.create(pod("b", "1", withDevices("second")), pod("c", "1", withDevices("missing")))
	if got, want := w.refused("b"), "0/2 nodes are available: 2 cannot allocate all claims."; !strings.HasPrefix(got, want) {
		t.Errorf("b is told\n  %q, want\n  %q", got, want)
	}
	if got, want := w.refused("c"), `0/2 nodes are available: resourceclaim "missing" not found.`; !strings.HasPrefix(got, want) {
		t.Errorf("c is told\n  %q, want\n  %q", got, want)
	}
	if err := w.client.CoreV1().Pods("default").Delete(w.ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	claim.Status = resourcev1.ResourceClaimStatus{} // what the claim controller does
	if _, err := w.client.ResourceV1().ResourceClaims("default").UpdateStatus(w.ctx, claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.bound("b")
}

func waitingClaim(name string) (*storagev1.StorageClass, *v1.PersistentVolumeClaim) {
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "wait"}, Provisioner: "csi.example", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	return class, &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "data"},
		Spec: v1.PersistentVolumeClaimSpec{StorageClassName: &class.Name, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
			Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}}}}
}

func withClaim(name string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
	}
}

// bindClaim does what a provisioner and the volume controller do.
func (w *world) bindClaim(name, selected string) {
	w.t.Helper()
	claims := w.client.CoreV1().PersistentVolumeClaims("default")
	deadline := time.Now().Add(10 * time.Second)
	for {
		claim, err := claims.Get(w.ctx, name, metav1.GetOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		if claim.Annotations["volume.kubernetes.io/selected-node"] == selected {
			pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: v1.PersistentVolumeSpec{StorageClassName: "wait"}}
			if _, err := w.client.CoreV1().PersistentVolumes().Create(w.ctx, pv, metav1.CreateOptions{}); err != nil {
				w.t.Fatal(err)
			}
			claim.Spec.VolumeName, claim.Status.Phase = pv.Name, v1.ClaimBound
			claim.Annotations["pv.kubernetes.io/bind-completed"] = "yes"
			if _, err := claims.Update(w.ctx, claim, metav1.UpdateOptions{}); err != nil {
				w.t.Fatal(err)
			}
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("claim %s is asked for near %q, want %q", name, claim.Annotations["volume.kubernetes.io/selected-node"], selected)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestAWaitingClaimIsProvisionedNearThePodBeforeThePodIsBound(t *testing.T) {
	class, claim := waitingClaim("data")
	w := newWorld(t, Config{Binders: 1}, node("n1", "1"), class, claim)
	w.create(pod("p", "100m", withClaim("data")))
	// One binding at a time is allowed, and a pod that waits for its volume does not count.
	w.create(pod("other", "100m"))
	w.bound("other")
	if p := w.pod("p"); p.Spec.NodeName != "" {
		t.Error("the pod was bound before its volume was there")
	}
	w.bindClaim("data", "n1")
	w.bound("p")
}

func TestAFreeVolumeIsBoundToAWaitingClaim(t *testing.T) {
	class, claim := waitingClaim("data")
	class.Provisioner = "kubernetes.io/no-provisioner"
	free := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Spec: v1.PersistentVolumeSpec{StorageClassName: "wait",
		AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}, Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")},
		NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{
			{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{"n2"}}}}}}}}, Status: v1.PersistentVolumeStatus{Phase: v1.VolumeAvailable}}
	w := newWorld(t, Config{}, node("n1", "64"), node("n2", "1"), class, claim, free)
	w.create(pod("p", "1", withClaim("data")))
	deadline := time.Now().Add(10 * time.Second)
	for {
		pv, err := w.client.CoreV1().PersistentVolumes().Get(w.ctx, "local", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.Name == "data" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the volume is not bound to the claim")
		}
		time.Sleep(5 * time.Millisecond)
	}
	bound := claim.DeepCopy()
	bound.Spec.VolumeName, bound.Annotations = "local", map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
	if _, err := w.client.CoreV1().PersistentVolumeClaims("default").Update(w.ctx, bound, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if p := w.bound("p"); p.Spec.NodeName != "n2" {
		t.Errorf("p is on %s, want n2", p.Spec.NodeName)
	}
}
