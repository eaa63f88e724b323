// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// A restarted agent finds its network not ready for a moment; that must not unready all pods of the node.
func TestRestartDoesNotTakeBackReadyAtOnce(t *testing.T) {
	ctx := context.Background()
	existing := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	existing.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
	client := fake.NewClientset(existing)
	k := New(client, Options{
		Name: "n", Capacity: func() v1.ResourceList { return v1.ResourceList{} },
		RuntimeVersion:  func() string { return "test" },
		Images:          func(context.Context) []v1.ContainerImage { return nil },
		RuntimeHandlers: func() []v1.NodeRuntimeHandler { return nil },
		Conditions: func(context.Context) []Condition {
			return []Condition{{Type: v1.NodeReady, Status: v1.ConditionFalse, Reason: "KubeletNotReady"}}
		},
	})
	isReady := func() bool {
		n, err := client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return ready(&n.Status)
	}
	if err := k.report(ctx); !errors.Is(err, errSettling) || !isReady() {
		t.Errorf("right after the start: error %v, node ready %t; want it to stay Ready", err, isReady())
	}
	k.started = time.Now().Add(-settle)
	if err := k.report(ctx); err != nil || isReady() {
		t.Errorf("after the time to settle: error %v, node ready %t; want it not Ready", err, isReady())
	}
}
