// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead/fairlead/controlplane/scheduler/cluster"
	"github.com/fairlead/fairlead/controlplane/scheduler/placement"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type fixture struct {
	*Queue
	eval    *placement.Evaluator
	profile *placement.Profile
}

func newFixture() *fixture {
	return &fixture{New(DefaultOptions), placement.New(cluster.New()), placement.DefaultProfile()}
}

func (f *fixture) request(name string, priority int32, gates ...string) placement.Request {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Priority: &priority}}
	for _, g := range gates {
		p.Spec.SchedulingGates = append(p.Spec.SchedulingGates, v1.PodSchedulingGate{Name: g})
	}
	return f.eval.Classify(p, f.profile)
}

func (f *fixture) names(now time.Time) string {
	var names []string
	for item := f.Pop(now); item != nil; item = f.Pop(now) {
		names = append(names, item.Pod.Name)
	}
	return strings.Join(names, " ")
}

func TestOrderIsByPriorityThenDeadlineThenAge(t *testing.T) {
	f := newFixture()
	f.Add(f.request("old", 0), time.Time{}, start)
	f.Add(f.request("young", 0), time.Time{}, start)
	f.Add(f.request("late-deadline", 0), start.Add(time.Hour), start)
	f.Add(f.request("early-deadline", 0), start.Add(time.Minute), start)
	f.Add(f.request("important", 1), time.Time{}, start)
	if got, want := f.names(start), "important early-deadline late-deadline old young"; got != want {
		t.Errorf("order is %q, want %q", got, want)
	}
}

func TestBackOffDoublesUpToTheLimit(t *testing.T) {
	f := newFixture()
	item := f.Add(f.request("p", 0), time.Time{}, start)
	now := start
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		if f.Pop(now) != item {
			t.Fatal("the pod is not active")
		}
		f.Retry(item, now)
		if at, ok := f.Next(now); !ok || at.Sub(now) != want*time.Second {
			t.Fatalf("back-off is %v, want %v", at.Sub(now), want*time.Second)
		}
		if f.Pop(now.Add(want*time.Second-time.Nanosecond)) != nil {
			t.Fatal("the pod is tried before its back-off has passed")
		}
		now = now.Add(want * time.Second)
	}
}

func TestOnlyWantedPodsWakeAndTheyKeepTheirBackOff(t *testing.T) {
	f := newFixture()
	a, b := f.Add(f.request("a", 0), time.Time{}, start), f.Add(f.request("b", 0), time.Time{}, start)
	f.Pop(start)
	f.Pop(start)
	f.Park(a, placement.PluginSet(0).With(placement.NodeAffinity), start)
	f.Park(b, placement.PluginSet(0).With(placement.NodePorts), start)
	moved := f.Wake(start, func(_ *placement.Class, rejected placement.PluginSet) bool { return rejected.Has(placement.NodePorts) })
	if moved != 1 || a.Place() != Unschedulable || b.Place() != Backoff {
		t.Fatalf("moved %d; a is in place %d, b in %d", moved, a.Place(), b.Place())
	}
	if got := f.names(start.Add(time.Second)); got != "b" {
		t.Errorf("after the back-off %q is tried, want b", got)
	}
	if got := f.names(start.Add(DefaultOptions.MaxUnschedulable)); got != "a" {
		t.Errorf("after five minutes %q is tried, want a", got)
	}
}

func TestGatedPodsAreNotTriedUntilTheirLastGateGoes(t *testing.T) {
	f := newFixture()
	item := f.Add(f.request("p", 0, "one", "two"), time.Time{}, start)
	f.Update(item, f.request("p", 0, "two"), start)
	if got := f.names(start); got != "" {
		t.Fatalf("%q is tried with a gate", got)
	}
	f.Update(item, f.request("p", 0), start)
	if got := f.names(start); got != "p" {
		t.Errorf("%q is tried, want p", got)
	}
}

func TestEachMissedDeadlineIsReportedOnce(t *testing.T) {
	f := newFixture()
	f.Add(f.request("gone", 0), start.Add(time.Second), start)
	item := f.Add(f.request("p", 0), start.Add(time.Minute), start)
	f.Remove("gone")
	if f.Overdue(start.Add(time.Minute-1)) != nil {
		t.Fatal("a deadline is missed before it is there")
	}
	if f.Overdue(start.Add(time.Minute)) != item || !item.Late {
		t.Fatal("the missed deadline is not reported")
	}
	if f.Overdue(start.Add(time.Hour)) != nil {
		t.Error("a missed deadline is reported twice")
	}
}

func TestAPodThatLeavesWhileItIsTriedDoesNotComeBack(t *testing.T) {
	f := newFixture()
	item := f.Add(f.request("p", 0), time.Time{}, start)
	f.Pop(start)
	f.Remove("p")
	f.Park(item, 0, start)
	f.Retry(item, start)
	if got := f.names(start.Add(time.Hour)); got != "" {
		t.Errorf("%q came back", got)
	}
}
