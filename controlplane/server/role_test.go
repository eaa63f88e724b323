// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"
)

func TestKeepRoleLabelsItsOwnNodeOnly(t *testing.T) {
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- KeepRole(ctx, client, "mine") }()
	nodes := client.CoreV1().Nodes()
	labelled := func(name string) error {
		var last error
		err := wait.PollUntilContextTimeout(ctx, 5*time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
			n, err := nodes.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			_, has := n.Labels[ControlPlaneRole]
			last = fmt.Errorf("labels of %s: %v", name, n.Labels)
			return has, nil
		})
		if err != nil {
			return last
		}
		return nil
	}
	// The node registers, is deleted, and registers again.
	for range 2 {
		if _, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "mine", Labels: map[string]string{"a": "b"}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := labelled("mine"); err != nil {
			t.Fatal(err)
		}
		if err := nodes.Delete(ctx, "mine", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	other, err := nodes.Get(ctx, "other", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, has := other.Labels[ControlPlaneRole]; has {
		t.Error("a node that is not this server's got the role")
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
