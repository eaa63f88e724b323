// SPDX-License-Identifier: Apache-2.0

package controllertest_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	. "github.com/fairlead/fairlead/controlplane/controllers/controllertest"
)

func TestASlowReaderOfAWatchLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const objects = 1000
		ctx, client := t.Context(), NewAPI(t).Client(nil)
		here := Must(client.CoreV1().ConfigMaps("here").Watch(ctx, metav1.ListOptions{}))
		gone := Must(client.CoreV1().ConfigMaps("").Watch(ctx, metav1.ListOptions{}))
		gone.Stop()
		for i := range objects {
			for _, ns := range []string{"here", "there"} {
				m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}}
				Must(client.CoreV1().ConfigMaps(ns).Create(ctx, m, metav1.CreateOptions{}))
			}
		}
		if err := client.CoreV1().ConfigMaps("here").Delete(ctx, "0", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for i := range objects + 1 {
			want, kind := fmt.Sprint(i), watch.Added
			if i == objects {
				want, kind = "0", watch.Deleted
			}
			e := <-here.ResultChan()
			if m := e.Object.(*corev1.ConfigMap); e.Type != kind || m.Name != want || m.Namespace != "here" {
				t.Fatalf("event %d is %s of %s/%s, want %s of here/%s", i, e.Type, m.Namespace, m.Name, kind, want)
			}
		}
		here.Stop()
		synctest.Wait()
		select {
		case e := <-here.ResultChan():
			t.Errorf("one more event: %v", e)
		default:
		}
	})
}
