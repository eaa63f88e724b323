// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestExhaustedRangeIsAnEventOnTheNode(t *testing.T) {
	client := fake.NewClientset()
	events := newNodeEvents(t.Context(), client, "worker-1")
	defer events.stop()
	events.exhausted(errors.New("no free pod address in 10.244.3.0/24"))
	deadline := time.Now().Add(10 * time.Second)
	for {
		list, err := client.CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) == 1 {
			e := list.Items[0]
			if e.InvolvedObject.Kind != "Node" || e.InvolvedObject.Name != "worker-1" || e.Type != corev1.EventTypeWarning || e.Reason != "PodAddressesExhausted" ||
				!strings.Contains(e.Message, "10.244.3.0/24") {
				t.Errorf("event %+v", e)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events", len(list.Items))
		}
		time.Sleep(10 * time.Millisecond)
	}
}
