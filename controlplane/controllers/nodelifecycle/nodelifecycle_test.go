// SPDX-License-Identifier: Apache-2.0

package nodelifecycle_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/nodelifecycle"
	"github.com/fairlead/fairlead/controlplane/controllers/tainteviction"
)

type world struct{ *controllertest.World }

func start(t *testing.T, nodes int) world {
	var objs []runtime.Object
	for i := range nodes {
		objs = append(objs, controllertest.Node(controllertest.NodeName(i)))
	}
	return world{controllertest.NewWorld(t, objs, nodelifecycle.New, tainteviction.New)}
}

// live lets time pass while the nodes for which alive holds renew their leases.
func (w world) live(d time.Duration, nodes int, alive func(i int) bool) {
	leases := w.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	for end := time.Now().Add(d); time.Now().Before(end); {
		for i := range nodes {
			if !alive(i) {
				continue
			}
			name, now := controllertest.NodeName(i), metav1.NowMicro()
			lease, err := leases.Get(context.Background(), name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				_, err = leases.Create(context.Background(), &coordinationv1.Lease{
					ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}, Spec: coordinationv1.LeaseSpec{RenewTime: &now},
				}, metav1.CreateOptions{})
			} else {
				lease.Spec.RenewTime = &now
				_, err = leases.Update(context.Background(), lease, metav1.UpdateOptions{})
			}
			w.Check(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
	}
}

func (w world) taints(name string) string {
	node, err := w.Client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	w.Check(err)
	var out []string
	for _, t := range node.Spec.Taints {
		out = append(out, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (w world) evicting(nodes int) int {
	n := 0
	for i := range nodes {
		if strings.Contains(w.taints(controllertest.NodeName(i)), "NoExecute") {
			n++
		}
	}
	return n
}

func pod(name, node string, seconds *int64) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c"}}}}
	p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}}
	return controllertest.Running(p, "10.0.0.1", time.Now())
}

func TestASilentNodeIsUnknownTaintedAndItsPodsLeaveAfterTheirToleration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 3)
		defer w.Close()
		ctx := context.Background()
		for _, p := range []*corev1.Pod{pod("patient", "node-0", ptr.To[int64](300)), pod("forever", "node-0", nil)} {
			created, err := w.Client.CoreV1().Pods("ns").Create(ctx, p, metav1.CreateOptions{})
			w.Check(err)
			created.Status = p.Status
			_, err = w.Client.CoreV1().Pods("ns").UpdateStatus(ctx, created, metav1.UpdateOptions{})
			w.Check(err)
		}
		w.live(40*time.Second, 3, func(int) bool { return true })
		others := func(i int) bool { return i != 0 }
		w.live(30*time.Second, 3, others) // the last sign of life is 10 s older
		if got := w.taints("node-0"); got != "" {
			t.Errorf("after 40 s of silence: %s, the grace is 50 s", got)
		}
		w.live(40*time.Second, 3, others)
		if got := w.taints("node-0"); got != "unreachable:NoExecute unreachable:NoSchedule" {
			t.Errorf("after 70 s of silence: %q", got)
		}
		for _, p := range w.Pods() {
			if controller.Ready(p) {
				t.Errorf("pod %s on a silent node counts as ready", p.Name)
			}
		}
		w.live(260*time.Second, 3, others)
		if n := len(controller.Filter(w.Pods(), controller.Active)); n != 2 {
			t.Errorf("%d pods are left before 300 s have passed, want 2", n)
		}
		w.live(60*time.Second, 3, others)
		left := controller.Filter(w.Pods(), controller.Active)
		if len(left) != 1 || left[0].Name != "forever" {
			t.Errorf("after 300 s: %d pods are left, want only the one that tolerates for good", len(left))
		}
		for _, p := range w.Pods() {
			if c := controller.PodCondition(p, corev1.DisruptionTarget); p.Name == "patient" && (c == nil || c.Reason != "DeletionByTaintManager") {
				t.Errorf("condition of the evicted pod: %v", c)
			}
		}
	})
}

func TestANodeThatComesBackLosesItsTaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 3)
		defer w.Close()
		w.live(100*time.Second, 3, func(i int) bool { return i != 0 })
		if got := w.taints("node-0"); !strings.Contains(got, "NoExecute") {
			t.Fatalf("the silent node has %q", got)
		}
		node, err := w.Client.CoreV1().Nodes().Get(context.Background(), "node-0", metav1.GetOptions{})
		w.Check(err)
		for i := range node.Status.Conditions {
			if node.Status.Conditions[i].Type == corev1.NodeReady {
				node.Status.Conditions[i].Status = corev1.ConditionTrue
			}
		}
		_, err = w.Client.CoreV1().Nodes().UpdateStatus(context.Background(), node, metav1.UpdateOptions{})
		w.Check(err)
		w.live(20*time.Second, 3, func(int) bool { return true })
		if got := w.taints("node-0"); got != "" {
			t.Errorf("after the node came back: %q", got)
		}
	})
}

func TestCordonAndPressureKeepNewPodsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 1)
		defer w.Close()
		node, err := w.Client.CoreV1().Nodes().Get(context.Background(), "node-0", metav1.GetOptions{})
		w.Check(err)
		node.Spec.Unschedulable = true
		node, err = w.Client.CoreV1().Nodes().Update(context.Background(), node, metav1.UpdateOptions{})
		w.Check(err)
		node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue})
		_, err = w.Client.CoreV1().Nodes().UpdateStatus(context.Background(), node, metav1.UpdateOptions{})
		w.Check(err)
		w.Wait()
		if got := w.taints("node-0"); got != "disk-pressure:NoSchedule unschedulable:NoSchedule" {
			t.Errorf("taints %q", got)
		}
	})
}

func TestEvictionKeepsTheZonesPace(t *testing.T) {
	for _, test := range []struct {
		name        string
		nodes, down int
		after       time.Duration
		least, most int // nodes with a NoExecute taint
	}{
		{"two of ten: one every 10 s", 10, 2, 2 * time.Minute, 2, 2},
		{"six of ten, a small disrupted zone: none", 10, 6, 5 * time.Minute, 0, 0},
		{"all: it is us who are cut off, none", 4, 4, 5 * time.Minute, 0, 0},
		{"forty of sixty, a large disrupted zone: one every 100 s", 60, 40, 6 * time.Minute, 2, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, test.nodes)
				defer w.Close()
				w.live(40*time.Second, test.nodes, func(int) bool { return true })
				w.live(test.after, test.nodes, func(i int) bool { return i >= test.down })
				if n := w.evicting(test.nodes); n < test.least || n > test.most {
					t.Errorf("%d nodes are being evicted, want %d to %d", n, test.least, test.most)
				}
			})
		})
	}
}
