// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// TestServiceEvents: a service that cannot be programmed gets an event that names the node and the reason, and one when it can again; a host port's goes to its pod;
// a service that is gone gets none and stops nothing.
func TestServiceEvents(t *testing.T) {
	client := fake.NewClientset(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u-1"}})
	tb, err := tables.New()
	if err != nil {
		t.Fatal(err)
	}
	w := tb.DB.WriteTxn(tb.LocalPods)
	if _, _, err := tb.LocalPods.Insert(w, &tables.LocalPod{ID: "c1/eth0", Namespace: "shop", Name: "edge", UID: "u-2"}); err != nil {
		t.Fatal(err)
	}
	w.Commit()
	ctx, cancel := context.WithCancel(t.Context())
	e := newServiceEvents(client, tb, "n1")
	done := make(chan error, 1)
	go func() { done <- e.run(ctx) }()
	web := tables.Name{Namespace: "shop", Name: "web"}
	e.report(tables.Name{Namespace: "shop", Name: "gone"}, errors.New("x"))
	e.report(web, errors.New("map slots is full"))
	e.report(web, nil)
	e.report(loadbalancer.HostPortsName("c1/eth0"), errors.New("taken"))
	want := map[string]string{
		"Service/web/u-1/Warning/NotProgrammed": "node n1: map slots is full",
		"Service/web/u-1/Normal/Programmed":     "node n1",
		"Pod/edge/u-2/Warning/NotProgrammed":    "node n1: taken",
	}
	deadline := time.After(10 * time.Second)
	for {
		list, err := client.CoreV1().Events("shop").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, ev := range list.Items {
			o := ev.InvolvedObject
			got[strings.Join([]string{o.Kind, o.Name, string(o.UID), ev.Type, ev.Reason}, "/")] = ev.Message
		}
		missing := 0
		for k, m := range want {
			if !strings.Contains(got[k], m) {
				missing++
			}
		}
		if missing == 0 && len(got) == len(want) {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("events: %v, want %v", got, want)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
