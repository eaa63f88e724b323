// SPDX-License-Identifier: Apache-2.0

package attachdetach_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/attachdetach"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
)

var ctx = context.Background()

const inUse = "kubernetes.io/csi/d.example.com^handle-v"

// objects are a node, a driver, a volume bound to a claim and a pod on the node that uses it.
func objects(change func(pv *corev1.PersistentVolume, driver *storagev1.CSIDriver, pod *corev1.Pod)) []runtime.Object {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d.example.com", VolumeHandle: "handle-v"}}}}
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d.example.com"}}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v"}}
	pod := pod("p", "node-0")
	if change != nil {
		change(pv, driver, pod)
	}
	return []runtime.Object{controllertest.Node("node-0"), controllertest.Node("node-1"), pv, driver, claim, pod}
}

func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{
		{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}}}
}

type world struct{ *controllertest.World }

func start(t *testing.T, objs []runtime.Object) world {
	return world{controllertest.NewWorld(t, objs, attachdetach.New)}
}

// attachments are "node" of each that stays and "-node" of each that is being deleted.
func (w world) attachments() string {
	var out []string
	for _, a := range controllertest.Must(w.Client.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})).Items {
		mark := ""
		if a.DeletionTimestamp != nil {
			mark = "-"
		}
		out = append(out, mark+a.Spec.NodeName)
	}
	return strings.Join(out, " ")
}

func (w world) node(change func(*corev1.Node)) *corev1.Node {
	n := controllertest.Must(w.Client.CoreV1().Nodes().Get(ctx, "node-0", metav1.GetOptions{}))
	if change == nil {
		return n
	}
	change(n)
	controllertest.Must(w.Client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}))
	w.Wait()
	return n
}

func (w world) end(pod string) {
	w.Check(w.Client.CoreV1().Pods("ns").Delete(ctx, pod, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	w.Wait()
}

func TestWhatIsAttached(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*corev1.PersistentVolume, *storagev1.CSIDriver, *corev1.Pod)
		want   string
	}{
		{"the volume of a pod with a node", nil, "node-0"},
		{"nothing for a pod without a node", func(_ *corev1.PersistentVolume, _ *storagev1.CSIDriver, p *corev1.Pod) { p.Spec.NodeName = "" }, ""},
		{"nothing for a finished pod", func(_ *corev1.PersistentVolume, _ *storagev1.CSIDriver, p *corev1.Pod) {
			p.Status.Phase = corev1.PodSucceeded
		}, ""},
		{"nothing for a driver that needs no attaching", func(_ *corev1.PersistentVolume, d *storagev1.CSIDriver, _ *corev1.Pod) {
			d.Spec.AttachRequired = ptr.To(false)
		}, ""},
		{"nothing for a volume that is no driver's", func(v *corev1.PersistentVolume, _ *storagev1.CSIDriver, _ *corev1.Pod) {
			v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/x"}}
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, objects(test.change))
				defer w.Close()
				if got := w.attachments(); got != test.want {
					t.Errorf("attached to %q, want %q", got, test.want)
				}
			})
		})
	}
}

func TestTheNodeIsToldWhatIsAttached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, objects(nil))
		defer w.Close()
		a := controllertest.Must(w.Client.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})).Items[0]
		// "csi-" and the SHA-256 of handle, driver and node, by sha256sum(1).
		if want := "csi-926752425121862c1a8fec4b2f4b1152407e3a6a9a93ae7b65c747b65ff1031c"; a.Name != want {
			t.Errorf("the kubelet will look for %s, the attachment is called %s", want, a.Name)
		}
		if got := w.node(nil).Status.VolumesAttached; len(got) != 0 {
			t.Errorf("told before the driver attached: %v", got)
		}
		a.Status.Attached = true
		controllertest.Must(w.Client.StorageV1().VolumeAttachments().UpdateStatus(ctx, &a, metav1.UpdateOptions{}))
		w.Wait()
		if got := w.node(nil).Status.VolumesAttached; len(got) != 1 || got[0].Name != inUse {
			t.Errorf("volumesAttached %v, want %s", got, inUse)
		}
	})
}

// TestWhenAVolumeIsDetached: not under a node that still has it mounted, unless the node is dead or declared out of service.
func TestWhenAVolumeIsDetached(t *testing.T) {
	for _, test := range []struct {
		name       string
		mounted    bool
		ready      bool
		taint      bool
		after      time.Duration
		wantAttach bool
	}{
		{"at once when the node does not use it", false, true, false, time.Second, false},
		{"not while the node says that it is in use", true, true, false, time.Hour, true},
		{"not at once when the node is silent", true, false, false, 5 * time.Minute, true},
		{"after six minutes when the node is silent", true, false, false, 7 * time.Minute, false},
		{"at once when the node is out of service", true, false, true, time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, objects(nil))
				defer w.Close()
				if test.taint {
					n := w.node(nil)
					n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
					controllertest.Must(w.Client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{}))
				}
				w.node(func(n *corev1.Node) {
					if test.mounted {
						n.Status.VolumesInUse = []corev1.UniqueVolumeName{inUse}
					}
					if !test.ready {
						n.Status.Conditions[0].Status = corev1.ConditionUnknown
					}
				})
				w.end("p")
				w.After(test.after)
				if got := w.attachments() != ""; got != test.wantAttach {
					t.Errorf("attached %v after %v, want %v", got, test.after, test.wantAttach)
				}
				if test.mounted && test.ready {
					w.node(func(n *corev1.Node) { n.Status.VolumesInUse = nil })
					if got := w.attachments(); got != "" {
						t.Errorf("the node unmounted it, and it is still attached to %s", got)
					}
				}
			})
		})
	}
}

func TestASecondPodOfTheVolumeKeepsItAttached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, append(objects(nil), pod("q", "node-0"), pod("r", "node-1")))
		defer w.Close()
		w.end("p")
		if got := w.attachments(); got != "node-0 node-1" && got != "node-1 node-0" {
			t.Errorf("attached to %q, want both nodes", got)
		}
		if n := w.Writes("create volumeattachments"); n != 2 {
			t.Errorf("%d attachments were made, want one per node", n)
		}
		w.end("q")
		if got := w.attachments(); got != "node-1" {
			t.Errorf("attached to %q, want node-1", got)
		}
	})
}

func TestAttachmentsOfOthersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		foreign := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: storagev1.VolumeAttachmentSpec{
			Attacher: "d.example.com", NodeName: "node-0", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("v")}}}
		w := start(t, append(objects(nil), foreign))
		defer w.Close()
		w.end("p")
		w.After(time.Hour)
		if got := w.attachments(); got != "node-0" || fmt.Sprint(w.Writes("delete volumeattachments")) != "1" {
			t.Errorf("attached to %q after %d deletions, want the foreign one to stay", got, w.Writes("delete volumeattachments"))
		}
	})
}
