// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	csi "github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/hack/nodetest/csidriver"
)

// bound makes a volume of the driver with a claim bound to it, as the controllers would leave them.
func (n *Node) bound(name string, edit func(*v1.PersistentVolume)) {
	n.T.Helper()
	ctx := n.T.Context()
	size := v1.ResourceList{v1.ResourceStorage: quantity("1Gi")}
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name}, Spec: v1.PersistentVolumeSpec{
		Capacity: size, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}, VolumeMode: ptr.To(v1.PersistentVolumeFilesystem),
		ClaimRef: &v1.ObjectReference{Namespace: "default", Name: name}, PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimRetain,
		PersistentVolumeSource: v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{Driver: csidriver.Name, VolumeHandle: "handle-" + name,
			FSType: "ext4", VolumeAttributes: map[string]string{"attribute": "value"}}},
	}}
	edit(pv)
	if _, err := n.Client.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{}); err != nil {
		n.T.Fatal(err)
	}
	claim := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: v1.PersistentVolumeClaimSpec{
		AccessModes: pv.Spec.AccessModes, VolumeMode: pv.Spec.VolumeMode, VolumeName: pv.Name, StorageClassName: ptr.To(""), Resources: v1.VolumeResourceRequirements{Requests: size},
	}}
	claim, err := n.Client.CoreV1().PersistentVolumeClaims("default").Create(ctx, claim, metav1.CreateOptions{})
	if err != nil {
		n.T.Fatal(err)
	}
	claim.Status = v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound, Capacity: size, AccessModes: pv.Spec.AccessModes}
	if _, err := n.Client.CoreV1().PersistentVolumeClaims("default").UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		n.T.Fatal(err)
	}
}

// attach says that the volume is attached to the node.
func (n *Node) attach(name string) {
	n.T.Helper()
	sum := sha256.Sum256([]byte("handle-" + name + csidriver.Name + NodeName))
	attachment := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "csi-" + hex.EncodeToString(sum[:])}, Spec: storagev1.VolumeAttachmentSpec{
		Attacher: csidriver.Name, NodeName: NodeName, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("pv-" + name)}}}
	attachment, err := n.Client.StorageV1().VolumeAttachments().Create(n.T.Context(), attachment, metav1.CreateOptions{})
	if err == nil {
		attachment.Status = storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"device": "/dev/here"}}
		_, err = n.Client.StorageV1().VolumeAttachments().UpdateStatus(n.T.Context(), attachment, metav1.UpdateOptions{})
	}
	if err != nil {
		n.T.Fatal(err)
	}
}

func claimed(pod *v1.Pod, claim string) *v1.Pod {
	pod.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v"}}
	return pod
}

func startDriver(t *testing.T, n *Node, dir string) *csidriver.Driver {
	t.Helper()
	d, err := csidriver.Start(n.Config.Kubelet.DataDir, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	until(t, "the driver is registered", func() bool { return slices.Contains(d.Calls("true"), "Registered") })
	return d
}

var wholeLife = []string{"Stage", "Publish", "Unpublish", "Unstage"}

func TestCSI(t *testing.T) {
	n := Start(t, nil)
	ctx := t.Context()
	object := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: csidriver.Name}, Spec: storagev1.CSIDriverSpec{PodInfoOnMount: ptr.To(true),
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}}}
	if _, err := n.Client.StorageV1().CSIDrivers().Create(ctx, object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d := startDriver(t, n, dir)

	t.Run("the cluster knows the driver", func(t *testing.T) {
		found, err := n.Client.StorageV1().CSINodes().Get(ctx, NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := storagev1.CSINodeDriver{Name: csidriver.Name, NodeID: "node-of-the-driver", TopologyKeys: []string{"topology." + csidriver.Name + "/zone"}}
		if len(found.Spec.Drivers) != 1 || found.Spec.Drivers[0].Allocatable == nil || *found.Spec.Drivers[0].Allocatable.Count != 7 {
			t.Fatalf("%+v", found.Spec)
		}
		found.Spec.Drivers[0].Allocatable = nil
		if got := fmt.Sprint(found.Spec.Drivers[0]); got != fmt.Sprint(want) {
			t.Errorf("%s, want %v", got, want)
		}
		node, err := n.Client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
		if err != nil || node.Labels["topology."+csidriver.Name+"/zone"] != "a" {
			t.Errorf("%v %v", node.Labels, err)
		}
	})
	t.Run("a volume bound to a claim", func(t *testing.T) {
		n := n.In(t)
		n.bound("claim", func(*v1.PersistentVolume) {})
		pod := claimed(Pod("writer", "write=/v/file:hello", "forever"), "claim")
		pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr.To[int64](1000), FSGroup: ptr.To[int64](2000)}
		n.Create(pod)
		n.attach("claim")
		pod = n.WaitReady("writer")
		if data, err := os.ReadFile(filepath.Join(dir, "volumes/handle-claim/file")); string(data) != "hello" {
			t.Errorf("content %q, %v", data, err)
		}
		publish := d.Last("Publish").(*csi.NodePublishVolumeRequest)
		want := filepath.Join(n.Config.Kubelet.DataDir, "pods", string(pod.UID), "volumes/kubernetes.io~csi/pv-claim/mount")
		if publish.TargetPath != want || publish.VolumeContext["attribute"] != "value" || publish.VolumeContext["csi.storage.k8s.io/pod.name"] != "writer" ||
			publish.PublishContext["device"] != "/dev/here" {
			t.Errorf("publish %+v", publish)
		}
		until(t, "the node says that the volume is in use", func() bool {
			node, err := n.Client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
			return err == nil && slices.Contains(node.Status.VolumesInUse, v1.UniqueVolumeName("kubernetes.io/csi/"+csidriver.Name+"^handle-claim"))
		})

		// The volume grows.
		pv, err := n.Client.CoreV1().PersistentVolumes().Get(ctx, "pv-claim", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pv.Spec.Capacity[v1.ResourceStorage] = quantity("2Gi")
		if _, err := n.Client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		current := n.Get("writer")
		current.Annotations = map[string]string{"look": "again"}
		if _, err := n.Client.CoreV1().Pods("default").Update(ctx, current, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		until(t, "the claim says that it grew", func() bool {
			claim, err := n.Client.CoreV1().PersistentVolumeClaims("default").Get(ctx, "claim", metav1.GetOptions{})
			got := claim.Status.Capacity[v1.ResourceStorage]
			return err == nil && got.String() == "2Gi"
		})
		n.Create(claimed(Pod("reader", "cat=/v/file"), "claim")) // a second user: the volume stays staged until both have gone
		if log := n.Log(n.WaitPhase("reader", v1.PodSucceeded), "app", 0); log != "hello\n" {
			t.Errorf("log %q", log)
		}
		n.Delete("reader")
		n.Delete("writer")
		until(t, "the volume is taken away", func() bool { return slices.Contains(d.Calls("handle-claim"), "Unstage") })
		if got := d.Calls("handle-claim"); !slices.Equal(got, []string{"Stage", "Publish", "Expand", "Stage", "Publish", "Unpublish", "Unstage"}) {
			t.Errorf("calls %v", got)
		}
		if data, err := os.ReadFile(filepath.Join(dir, "volumes/handle-claim/file")); string(data) != "hello" {
			t.Errorf("content %q, %v after the pod", data, err)
		}
	})
	t.Run("an inline volume", func(t *testing.T) {
		n := n.In(t)
		pod := claimed(Pod("inline", "write=/v/file:x", "cat=/v/file"), "")
		pod.Spec.Volumes[0].VolumeSource = v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: csidriver.Name, VolumeAttributes: map[string]string{"size": "1"}}}
		n.Create(pod)
		if log := n.Log(n.WaitPhase("inline", v1.PodSucceeded), "app", 0); log != "x\n" {
			t.Errorf("log %q", log)
		}
		publish := d.Last("Publish").(*csi.NodePublishVolumeRequest)
		if publish.VolumeContext["csi.storage.k8s.io/ephemeral"] != "true" || publish.StagingTargetPath != "" {
			t.Errorf("publish %+v", publish)
		}
		n.Delete("inline")
		until(t, "the volume is taken away", func() bool { return slices.Equal(d.Calls(publish.VolumeId), []string{"Publish", "Unpublish"}) })
	})
	t.Run("a block device", func(t *testing.T) {
		n := n.In(t)
		n.bound("block", func(pv *v1.PersistentVolume) { pv.Spec.VolumeMode = ptr.To(v1.PersistentVolumeBlock) })
		n.attach("block")
		pod := claimed(Pod("block", "ls=/dev/"), "block")
		pod.Spec.Containers[0].VolumeMounts = nil
		pod.Spec.Containers[0].VolumeDevices = []v1.VolumeDevice{{Name: "v", DevicePath: "/dev/mine"}}
		n.Create(pod)
		if log := n.Log(n.WaitPhase("block", v1.PodSucceeded), "app", 0); !strings.Contains(log, "Drw-") || !strings.Contains(log, " mine\n") {
			t.Errorf("log %q", log)
		}
		n.Delete("block")
		until(t, "the device is taken away", func() bool { return slices.Equal(d.Calls("handle-block"), wholeLife) })
	})
	t.Run("failures are told", func(t *testing.T) {
		n := n.In(t)
		n.bound("fails", func(pv *v1.PersistentVolume) { pv.Spec.CSI.VolumeAttributes = map[string]string{"fail": "yes"} })
		n.attach("fails")
		n.bound("stranger", func(pv *v1.PersistentVolume) { pv.Spec.CSI.Driver = "unknown.example" })
		for pod, want := range map[string]string{"fails": "told to fail", "stranger": "driver name unknown.example not found in the list of registered CSI drivers"} {
			n.Create(claimed(Pod(pod, "forever"), pod))
			until(t, pod, func() bool {
				return slices.ContainsFunc(n.Events(pod), func(e string) bool { return strings.Contains(e, "FailedMount") && strings.Contains(e, want) })
			})
			n.Delete(pod)
		}
	})
}

// TestCSIAfterAKill: the agent is killed while a pod uses a volume, and the pod is deleted meanwhile: the volume is taken away all the same.
func TestCSIAfterAKill(t *testing.T) {
	n := Start(t, nil)
	n.Down()
	n.Spawn()
	d := startDriver(t, n, t.TempDir())
	n.bound("claim", func(*v1.PersistentVolume) {})
	n.attach("claim")
	n.Create(claimed(Pod("stays", "forever"), "claim"))
	n.Create(claimed(Pod("goes", "forever"), "claim"))
	before := n.WaitReady("stays").Status.ContainerStatuses[0].ContainerID
	n.WaitReady("goes")
	n.Kill()
	if err := n.Client.CoreV1().Pods("default").Delete(t.Context(), "goes", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	n.Spawn()
	until(t, "the deleted pod's mount is gone", func() bool { return slices.Contains(d.Calls("handle-claim"), "Unpublish") })
	if got := d.Calls("handle-claim"); slices.Contains(got, "Unstage") {
		t.Errorf("calls %v: another pod uses the volume", got)
	}
	if after := n.WaitReady("stays").Status.ContainerStatuses[0]; after.ContainerID != before || after.RestartCount != 0 {
		t.Errorf("%+v", after)
	}
	n.Delete("stays")
	until(t, "the volume is unstaged", func() bool { return slices.Contains(d.Calls("handle-claim"), "Unstage") })
	if left := mounts(n.Config.Kubelet.DataDir); len(left) != 0 {
		t.Errorf("left mounted: %v", left)
	}
}
