// SPDX-License-Identifier: Apache-2.0

package volumebinder_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/volumebinder"
)

var ctx = context.Background()

func pv(name, size, class string, change func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		StorageClassName: class, VolumeMode: ptr.To(corev1.PersistentVolumeFilesystem), PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
	}}
	if change != nil {
		change(v)
	}
	return v
}

func claim(name, size string, class *string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class, VolumeMode: ptr.To(corev1.PersistentVolumeFilesystem),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}}
	if change != nil {
		change(c)
	}
	return c
}

func class(name, provisioner string, isDefault, waits bool) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: ptr.To(storagev1.VolumeBindingImmediate)}
	if isDefault {
		c.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	}
	if waits {
		c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)
	}
	return c
}

type world struct{ *controllertest.World }

func start(t *testing.T, objs ...runtime.Object) world {
	return world{controllertest.NewWorld(t, objs, volumebinder.New)}
}

func (w world) claim(name string) *corev1.PersistentVolumeClaim {
	return controllertest.Must(w.Client.CoreV1().PersistentVolumeClaims("ns").Get(ctx, name, metav1.GetOptions{}))
}

func (w world) pv(name string) *corev1.PersistentVolume {
	return controllertest.Must(w.Client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{}))
}

// TestWhichVolumeAClaimGets: the smallest that fits, of the class, mode and labels that are asked for.
func TestWhichVolumeAClaimGets(t *testing.T) {
	none, fast := ptr.To(""), ptr.To("fast")
	for _, test := range []struct {
		name  string
		claim *corev1.PersistentVolumeClaim
		pvs   []runtime.Object
		want  string
	}{
		{"the smallest that is large enough", claim("c", "5Gi", none, nil), []runtime.Object{pv("a", "100Gi", "", nil), pv("b", "6Gi", "", nil), pv("c", "1Gi", "", nil)}, "b"},
		{"none of another class", claim("c", "5Gi", fast, nil), []runtime.Object{pv("a", "6Gi", "", nil)}, ""},
		{"of its class", claim("c", "5Gi", fast, nil), []runtime.Object{pv("a", "6Gi", "", nil), pv("b", "10Gi", "fast", nil)}, "b"},
		{"none with other access modes", claim("c", "5Gi", none, func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}), []runtime.Object{pv("a", "6Gi", "", nil)}, ""},
		{"none that is a block device", claim("c", "5Gi", none, nil), []runtime.Object{pv("a", "6Gi", "", func(v *corev1.PersistentVolume) {
			v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
		})}, ""},
		{"by its selector", claim("c", "5Gi", none, func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "x"}}
		}), []runtime.Object{pv("a", "6Gi", "", nil), pv("b", "60Gi", "", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"disk": "x"} })}, "b"},
		{"the one reserved for it, though a smaller one fits", claim("c", "5Gi", none, nil), []runtime.Object{pv("a", "6Gi", "", nil), pv("b", "60Gi", "", func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "c"}
		})}, "b"},
		{"none reserved for another", claim("c", "5Gi", none, nil), []runtime.Object{pv("a", "6Gi", "", func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "other"}
		})}, ""},
		{"the one it names", claim("c", "5Gi", none, func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "b" }),
			[]runtime.Object{pv("a", "6Gi", "", nil), pv("b", "60Gi", "", nil)}, "b"},
		{"none that is being deleted", claim("c", "5Gi", none, nil), []runtime.Object{pv("a", "6Gi", "", func(v *corev1.PersistentVolume) {
			v.DeletionTimestamp, v.Finalizers = ptr.To(metav1.Now()), []string{"kubernetes.io/pv-protection"}
		})}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, append(test.pvs, test.claim)...)
				defer w.Close()
				c := w.claim("c")
				if test.want == "" {
					if c.Status.Phase != corev1.ClaimPending || c.Spec.VolumeName != "" {
						t.Errorf("the claim is %s with volume %q, want it to wait", c.Status.Phase, c.Spec.VolumeName)
					}
					return
				}
				if c.Spec.VolumeName != test.want || c.Status.Phase != corev1.ClaimBound || len(c.Status.AccessModes) == 0 {
					t.Errorf("the claim is %s with volume %q and status %+v, want Bound with %q", c.Status.Phase, c.Spec.VolumeName, c.Status, test.want)
				}
				if v := w.pv(test.want); v.Status.Phase != corev1.VolumeBound || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID {
					t.Errorf("volume %s is %s with claim %+v", v.Name, v.Status.Phase, v.Spec.ClaimRef)
				}
			})
		})
	}
}

// TestOneVolumeIsGivenAwayOnceThoughTheCacheLags: two claims, one volume, and caches that show nothing of the first binding.
func TestOneVolumeIsGivenAwayOnceThoughTheCacheLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, pv("v", "10Gi", "", nil))
		defer w.Close()
		w.Lag(true)
		for _, name := range []string{"a", "b"} {
			controllertest.Must(w.Client.CoreV1().PersistentVolumeClaims("ns").Create(ctx, claim(name, "1Gi", ptr.To(""), nil), metav1.CreateOptions{}))
		}
		w.CatchUp()
		bound := 0
		for _, name := range []string{"a", "b"} {
			if c := w.claim(name); c.Spec.VolumeName == "v" {
				bound++
			}
		}
		if bound != 1 {
			t.Errorf("%d claims have the volume, want 1", bound)
		}
	})
}

// TestABindingThatIsTriedAgainKeepsItsVolume: the second write of a binding is refused while the cache shows nothing of the first.
func TestABindingThatIsTriedAgainKeepsItsVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, pv("v", "10Gi", "", nil), pv("w", "20Gi", "", nil))
		defer w.Close()
		refused := 0
		w.Refuse = func(a clienttesting.Action) error {
			if a.GetSubresource() != "status" || a.GetResource().Resource != "persistentvolumes" || refused > 0 {
				return nil
			}
			refused++
			return apierrors.NewConflict(a.GetResource().GroupResource(), "v", errors.New("somebody else was first"))
		}
		w.Lag(true)
		controllertest.Must(w.Client.CoreV1().PersistentVolumeClaims("ns").Create(ctx, claim("c", "1Gi", ptr.To(""), nil), metav1.CreateOptions{}))
		w.P.Lag.Pass(func(int) int { return 0 })
		w.After(time.Second)
		if refused != 1 {
			t.Fatalf("%d writes were refused, want 1", refused)
		}
		for _, caught := range []bool{false, true} {
			if caught {
				w.CatchUp()
			}
			if v := w.pv("v"); v.Spec.ClaimRef == nil {
				t.Errorf("caught up %t: the volume has lost its claim", caught)
			}
			if other := w.pv("w"); other.Spec.ClaimRef != nil || other.Status.Phase != corev1.VolumeAvailable {
				t.Errorf("caught up %t: the other volume is %s with claim %v", caught, other.Status.Phase, other.Spec.ClaimRef)
			}
		}
		if c := w.claim("c"); c.Spec.VolumeName != "v" || c.Status.Phase != corev1.ClaimBound {
			t.Errorf("the claim is %s with %q", c.Status.Phase, c.Spec.VolumeName)
		}
	})
}

// TestABindingThatCrashedHalfWayIsFinished lets the process die after each of the writes of one binding.
func TestABindingThatCrashedHalfWayIsFinished(t *testing.T) {
	for n := range 5 {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, pv("v", "10Gi", "", nil), pv("w", "20Gi", "", nil))
			defer w.Close()
			w.P.CrashAfter(n)
			controllertest.Must(w.Client.CoreV1().PersistentVolumeClaims("ns").Create(ctx, claim("c", "1Gi", ptr.To(""), nil), metav1.CreateOptions{}))
			w.Wait()
			w.Restart()
			w.After(time.Minute)
			if c := w.claim("c"); c.Spec.VolumeName != "v" || c.Status.Phase != corev1.ClaimBound {
				t.Errorf("crashed after %d writes: the claim is %s with %q", n, c.Status.Phase, c.Spec.VolumeName)
			}
			if v := w.pv("w"); v.Spec.ClaimRef != nil || v.Status.Phase != corev1.VolumeAvailable {
				t.Errorf("crashed after %d writes: the other volume is %s", n, v.Status.Phase)
			}
		})
	}
}

func TestTheDefaultClassAndWhoseTurnItIs(t *testing.T) {
	for _, test := range []struct {
		name        string
		classes     []runtime.Object
		class       *string
		wantClass   string
		provisioner string // "" when nobody is asked
		event       string
	}{
		{"the default class is filled in and its provisioner asked", []runtime.Object{class("std", "p.example.com", true, false)}, nil, "std", "p.example.com", "ExternalProvisioning"},
		{"a claim that asks for no class gets none", []runtime.Object{class("std", "p.example.com", true, false)}, ptr.To(""), "", "", "FailedBinding"},
		{"a class that waits for a pod asks nobody yet", []runtime.Object{class("std", "p.example.com", true, true)}, nil, "std", "", "WaitForFirstConsumer"},
		{"a class without a provisioner", []runtime.Object{class("local", "kubernetes.io/no-provisioner", false, false)}, ptr.To("local"), "local", "", "FailedBinding"},
		{"a class that is not there", nil, ptr.To("gone"), "gone", "", `ProvisioningFailed storageclass.storage.k8s.io "gone" not found`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, append(test.classes, claim("c", "1Gi", test.class, nil))...)
				defer w.Close()
				c := w.claim("c")
				if got := ptr.Deref(c.Spec.StorageClassName, "<nil>"); got != test.wantClass {
					t.Errorf("class %q, want %q", got, test.wantClass)
				}
				if got := c.Annotations["volume.kubernetes.io/storage-provisioner"]; got != test.provisioner {
					t.Errorf("provisioner %q, want %q", got, test.provisioner)
				}
				if events := strings.Join(w.P.Events.All(), "\n"); !strings.Contains(events, test.event) {
					t.Errorf("no event %q: %s", test.event, events)
				}
			})
		})
	}
}

func TestAClaimThatWaitsGetsAClassOrAVolumeThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, claim("a", "1Gi", nil, nil), claim("b", "1Gi", ptr.To(""), nil))
		defer w.Close()
		controllertest.Must(w.Client.StorageV1().StorageClasses().Create(ctx, class("std", "p.example.com", true, false), metav1.CreateOptions{}))
		w.Wait() // a claim without a class takes a volume without one as long as there is no default class
		controllertest.Must(w.Client.CoreV1().PersistentVolumes().Create(ctx, pv("v", "1Gi", "", nil), metav1.CreateOptions{}))
		w.After(time.Second)
		if a, b := w.claim("a"), w.claim("b"); a.Annotations["volume.kubernetes.io/storage-provisioner"] != "p.example.com" || b.Status.Phase != corev1.ClaimBound {
			t.Errorf("a has annotations %v, b is %s", a.Annotations, b.Status.Phase)
		}
	})
}

// TestLostAndReleased: a bound claim that loses its volume is Lost for good; a volume that loses its claim is Released and never bound again by itself.
func TestLostAndReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, pv("v", "1Gi", "", nil), pv("w", "2Gi", "", nil), claim("a", "1Gi", ptr.To(""), nil))
		defer w.Close()
		controllertest.Must(w.Client.CoreV1().PersistentVolumeClaims("ns").Create(ctx, claim("b", "2Gi", ptr.To(""), nil), metav1.CreateOptions{}))
		w.Wait()
		w.Check(w.Client.CoreV1().PersistentVolumes().Delete(ctx, "v", metav1.DeleteOptions{}))
		w.Check(w.Client.CoreV1().PersistentVolumeClaims("ns").Delete(ctx, "b", metav1.DeleteOptions{}))
		w.Wait()
		if c := w.claim("a"); c.Status.Phase != corev1.ClaimLost {
			t.Errorf("the claim without its volume is %s, want Lost", c.Status.Phase)
		}
		if v := w.pv("w"); v.Status.Phase != corev1.VolumeReleased {
			t.Errorf("the volume without its claim is %s, want Released", v.Status.Phase)
		}
		// A claim of the same name is another claim: its pod must not find the data of the one before.
		controllertest.Must(w.Client.CoreV1().PersistentVolumeClaims("ns").Create(ctx, claim("b", "2Gi", ptr.To(""), nil), metav1.CreateOptions{}))
		w.After(time.Minute)
		if c, v := w.claim("b"), w.pv("w"); c.Status.Phase != corev1.ClaimPending || v.Status.Phase != corev1.VolumeReleased {
			t.Errorf("the new claim is %s, the volume %s", c.Status.Phase, v.Status.Phase)
		}
	})
}

func TestTwoClaimsOnOneVolumeByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		named := func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" }
		first := claim("a", "1Gi", ptr.To(""), named)
		taken := pv("v", "1Gi", "", func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "a", UID: types.UID("uid-00001")}
		})
		w := start(t, first, taken, claim("b", "1Gi", ptr.To(""), named))
		defer w.Close()
		w.After(time.Hour)
		if a, b := w.claim("a"), w.claim("b"); a.Status.Phase != corev1.ClaimBound || b.Status.Phase != corev1.ClaimPending {
			t.Errorf("a is %s, b is %s; want Bound and Pending", a.Status.Phase, b.Status.Phase)
		}
		events := strings.Join(w.P.Events.All(), "\n")
		if !strings.Contains(events, `volume "v" already bound to a different claim`) || len(w.P.Events.All()) > 5 {
			t.Errorf("events in an hour: %s", events)
		}
	})
}
