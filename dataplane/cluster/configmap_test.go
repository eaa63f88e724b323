// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestWatchConfigMapDeliversChangesOfTheOne(t *testing.T) {
	one := func(name, text string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}, Data: map[string]string{"Corefile": text}}
	}
	client := fake.NewClientset(one("fairlead-dns", "first"))
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan string), make(chan struct{})
	go func() { defer close(done); WatchConfigMap(ctx, client, "kube-system", "fairlead-dns", "Corefile", out) }()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-out:
			if got != want {
				t.Errorf("delivered %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%q was not delivered", want)
		}
	}
	expect("first")
	maps := client.CoreV1().ConfigMaps("kube-system")
	same := one("fairlead-dns", "first")
	same.Labels = map[string]string{"changed": "but not the value"}
	for _, m := range []*corev1.ConfigMap{same, one("fairlead-dns", "second")} {
		if _, err := maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	expect("second")
	if err := maps.Delete(ctx, "fairlead-dns", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("")
	cancel()
	<-done
}
