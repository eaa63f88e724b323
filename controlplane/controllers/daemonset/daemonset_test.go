// SPDX-License-Identifier: Apache-2.0

package daemonset_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/daemonset"
)

type world struct{ *controllertest.World }

func start(t *testing.T, nodes []*corev1.Node, change func(*appsv1.DaemonSetSpec)) world {
	labels := map[string]string{"app": "d"}
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"}, Spec: appsv1.DaemonSetSpec{
		Selector:       &metav1.LabelSelector{MatchLabels: labels},
		Template:       corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
		UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType},
	}}
	if change != nil {
		change(&ds.Spec)
	}
	objs := []runtime.Object{ds}
	for _, n := range nodes {
		objs = append(objs, n)
	}
	return world{controllertest.NewWorld(t, objs, daemonset.New)}
}

func nodes(n int) (out []*corev1.Node) {
	for i := range n {
		out = append(out, controllertest.Node(controllertest.NodeName(i)))
	}
	return out
}

// show lists the active pods as node:image, with + when ready.
func (w world) show() string {
	var out []string
	for _, pod := range controller.Filter(w.Pods(), controller.Active) {
		text := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0] + ":" + pod.Spec.Containers[0].Image
		if controller.Ready(pod) {
			text += "+"
		}
		out = append(out, strings.TrimPrefix(text, "node-"))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (w world) expect(want string) {
	w.T.Helper()
	if got := w.show(); got != want {
		w.T.Fatalf("pods: %s, want %s", got, want)
	}
}

func (w world) image(image string) {
	ds, err := w.Client.AppsV1().DaemonSets("ns").Get(context.Background(), "d", metav1.GetOptions{})
	w.Check(err)
	ds.Spec.Template.Spec.Containers[0].Image = image
	_, err = w.Client.AppsV1().DaemonSets("ns").Update(context.Background(), ds, metav1.UpdateOptions{})
	w.Check(err)
	w.Wait()
}

func TestWhereDaemonsRun(t *testing.T) {
	taint := func(key string, effect corev1.TaintEffect) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: key, Effect: effect}} }
	}
	for _, test := range []struct {
		name   string
		node   func(*corev1.Node)
		spec   func(*appsv1.DaemonSetSpec)
		before string // with the node as it is
	}{
		{"an ordinary node", func(*corev1.Node) {}, nil, "0:v1"},
		{"a cordoned node", taint(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule), nil, "0:v1"},
		{"an unreachable node", taint(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute), nil, "0:v1"},
		{"a foreign taint", taint("gpu", corev1.TaintEffectNoSchedule), nil, ""},
		{"a foreign taint that is tolerated", taint("gpu", corev1.TaintEffectNoSchedule), func(s *appsv1.DaemonSetSpec) {
			s.Template.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		}, "0:v1"},
		{"a soft taint", taint("gpu", corev1.TaintEffectPreferNoSchedule), nil, "0:v1"},
		{"no network, pod network", taint(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule), nil, ""},
		{"no network, host network", taint(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule), func(s *appsv1.DaemonSetSpec) { s.Template.Spec.HostNetwork = true }, "0:v1"},
		{"a selector that does not match", func(*corev1.Node) {}, func(s *appsv1.DaemonSetSpec) { s.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"} }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := nodes(1)
				test.node(n[0])
				w := start(t, n, test.spec)
				defer w.Close()
				w.expect(test.before)
			})
		})
	}
}

func TestANodeThatComesGetsOneAndALabelTakenAwayEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nodes(1)
		n[0].Labels["disk"] = "ssd"
		w := start(t, n, func(s *appsv1.DaemonSetSpec) { s.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"} })
		defer w.Close()
		more := controllertest.Node("node-1")
		more.Labels["disk"] = "ssd"
		_, err := w.Client.CoreV1().Nodes().Create(context.Background(), more, metav1.CreateOptions{})
		w.Check(err)
		w.Wait()
		w.expect("0:v1 1:v1")
		first, err := w.Client.CoreV1().Nodes().Get(context.Background(), "node-0", metav1.GetOptions{})
		w.Check(err)
		delete(first.Labels, "disk")
		_, err = w.Client.CoreV1().Nodes().Update(context.Background(), first, metav1.UpdateOptions{})
		w.Check(err)
		w.Wait()
		w.expect("1:v1")
	})
}

func TestAForeignTaintKeepsNewPodsAwayAndLetsRunningOnesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nodes(1), nil)
		defer w.Close()
		w.Rest()
		node, err := w.Client.CoreV1().Nodes().Get(context.Background(), "node-0", metav1.GetOptions{})
		w.Check(err)
		node.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
		node, err = w.Client.CoreV1().Nodes().Update(context.Background(), node, metav1.UpdateOptions{})
		w.Check(err)
		w.Wait()
		w.expect("0:v1+")
		node.Spec.Taints[0].Effect = corev1.TaintEffectNoExecute
		_, err = w.Client.CoreV1().Nodes().Update(context.Background(), node, metav1.UpdateOptions{})
		w.Check(err)
		w.Wait()
		w.expect("")
	})
}

func TestRollingUpdateTakesOneNodeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nodes(3), nil)
		defer w.Close()
		w.Rest()
		w.image("v2")
		for range 12 {
			ready := 0
			for _, pod := range controller.Filter(w.Pods(), controller.Active) {
				if controller.Ready(pod) {
					ready++
				}
			}
			if ready < 2 {
				t.Fatalf("%d of 3 are ready (%s), one may be missing", ready, w.show())
			}
			for _, pod := range w.Pods() {
				if w.Step(pod) {
					break
				}
			}
		}
		w.Rest()
		w.expect("0:v2+ 1:v2+ 2:v2+")
		ds, err := w.Client.AppsV1().DaemonSets("ns").Get(context.Background(), "d", metav1.GetOptions{})
		w.Check(err)
		if s := ds.Status; s.DesiredNumberScheduled != 3 || s.UpdatedNumberScheduled != 3 || s.NumberAvailable != 3 || s.NumberUnavailable != 0 || s.NumberMisscheduled != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestSurgeStartsTheNewPodBeforeTheOldOneEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nodes(2), func(s *appsv1.DaemonSetSpec) {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0))}
		})
		defer w.Close()
		w.Rest()
		w.image("v2")
		if got := w.show(); got != "0:v1+ 0:v2 1:v1+" && got != "0:v1+ 1:v1+ 1:v2" {
			t.Fatalf("pods: %s, want one new pod beside two old ones", got)
		}
		w.Rest()
		w.expect("0:v2+ 1:v2+")
	})
}

func TestOnDeleteLeavesPodsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nodes(1), func(s *appsv1.DaemonSetSpec) { s.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType })
		defer w.Close()
		w.Rest()
		w.image("v2")
		w.Rest()
		w.expect("0:v1+")
	})
}

func TestAPodThatKeepsFailingIsReplacedEverMoreSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nodes(1), nil)
		defer w.Close()
		uids := map[string]bool{}
		for range 120 { // two minutes: the delays are 1, 2, 4, ... seconds
			for _, pod := range controller.Filter(w.Pods(), controller.Active) {
				uids[string(pod.UID)] = true
				w.End(pod, corev1.PodFailed, 1)
			}
			time.Sleep(time.Second)
			w.Wait()
		}
		if n := len(uids); n < 4 || n > 9 {
			t.Errorf("%d pods were tried in two minutes, want about 7", n)
		}
	})
}

func TestARollbackInTheMiddleLeavesAloneWhatHadNotChangedYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nodes(3), nil)
		defer w.Close()
		w.Rest()
		w.image("an image that never starts")
		before := map[string]bool{} // pods that run the old template
		for _, pod := range controller.Filter(w.Pods(), controller.Active) {
			if pod.Spec.Containers[0].Image == "v1" {
				before[string(pod.UID)] = true
			}
		}
		if len(before) != 2 {
			t.Fatalf("%d of 3 still run the old template, want 2", len(before))
		}
		w.image("v1")
		w.Rest()
		w.expect("0:v1+ 1:v1+ 2:v1+")
		for _, pod := range controller.Filter(w.Pods(), controller.Active) {
			delete(before, string(pod.UID))
		}
		if len(before) > 0 {
			t.Errorf("%d pods were restarted although they ran the template that came back", len(before))
		}
	})
}

func TestARevisionMadeByHandIsCountedAndTakenForTheSameTemplate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, nodes(2), nil)
		defer w.Close()
		w.Rest()
		api := w.Client.AppsV1().ControllerRevisions("ns")
		revisions := func() []appsv1.ControllerRevision {
			return controllertest.Must(api.List(context.Background(), metav1.ListOptions{})).Items
		}
		first := revisions()[0]
		pods := w.Pods()
		second := first.DeepCopy()
		second.ObjectMeta = metav1.ObjectMeta{Namespace: "ns", Name: "by-hand", Labels: first.Labels, OwnerReferences: first.OwnerReferences}
		second.Revision = 2
		controllertest.Must(api.Create(context.Background(), second, metav1.CreateOptions{}))
		w.Check(api.Delete(context.Background(), first.Name, metav1.DeleteOptions{}))
		w.Rest()
		if got := revisions(); len(got) != 1 || got[0].Name != "by-hand" {
			t.Errorf("%d revisions, want the one made by hand alone: it keeps the template", len(got))
		}
		if now := w.Pods(); len(now) != 2 || now[0].UID != pods[0].UID || now[1].UID != pods[1].UID {
			t.Error("pods were replaced although their template is the same")
		}
		w.image("v2")
		w.Rest()
		w.expect("0:v2+ 1:v2+")
		highest := int64(0)
		for _, r := range revisions() {
			highest = max(highest, r.Revision)
		}
		if highest != 3 {
			t.Errorf("the newest revision is number %d, want 3", highest)
		}
	})
}
