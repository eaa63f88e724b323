// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// Who offers a resource of a node by writing its status finds it there as long as the agent runs; what an earlier agent's device plugin left goes.
func TestResourcesOfOthersStay(t *testing.T) {
	ctx := context.Background()
	one := resource.MustParse("1")
	existing := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	existing.Status.Capacity = v1.ResourceList{"example.com/left-over": one}
	client := fake.NewClientset(existing)
	memory := one
	k := New(client, Options{
		Name: "n", Capacity: func() v1.ResourceList { return v1.ResourceList{v1.ResourceMemory: memory} },
		DeviceCapacity: func() (capacity, allocatable v1.ResourceList) {
			return v1.ResourceList{"example.com/device": one}, v1.ResourceList{"example.com/device": one}
		},
		RuntimeVersion: func() string { return "test" }, Conditions: func(context.Context) []Condition { return nil },
	})
	report := func() (capacity, allocatable v1.ResourceList) {
		t.Helper()
		if err := k.report(ctx); err != nil {
			t.Fatal(err)
		}
		n, err := client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n.Status.Capacity, n.Status.Allocatable
	}
	if capacity, _ := report(); len(capacity) != 2 {
		t.Errorf("at first: %v, want memory and the device", capacity)
	}
	n, err := client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	five := resource.MustParse("5")
	for _, list := range []v1.ResourceList{n.Status.Capacity, n.Status.Allocatable} {
		list["example.com/theirs"], list["example.com/device"], list["hugepages-1Gi"], list["made-up"] = five, five, five, five
	}
	if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	memory = resource.MustParse("2")
	capacity, allocatable := report()
	for _, list := range []v1.ResourceList{capacity, allocatable} {
		theirs, device, own := list["example.com/theirs"], list["example.com/device"], list[v1.ResourceMemory]
		if len(list) != 3 || theirs.Value() != 5 || device.Value() != 1 || own.Value() != 2 {
			t.Errorf("%v, want theirs as they wrote it, the device and memory as the node has them", list)
		}
	}
}
