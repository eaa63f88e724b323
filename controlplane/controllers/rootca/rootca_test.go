// SPDX-License-Identifier: Apache-2.0

package rootca_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/rootca"
)

var ctx = context.Background()

func TestTheAuthorityIsInEveryNamespaceAndStaysTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ns := func(name string, phase corev1.NamespacePhase) runtime.Object {
			return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: phase}}
		}
		old := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "the old authority"}}
		w := controllertest.NewWorld(t, []runtime.Object{ns("a", corev1.NamespaceActive), ns("b", corev1.NamespaceActive), ns("going", corev1.NamespaceTerminating), old},
			func(c *controller.Context) controller.Controller {
				c.Settings.RootCA = []byte("the authority")
				return rootca.New(c)
			})
		defer w.Close()
		in := func(namespace string) string {
			m, err := w.Client.CoreV1().ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
			if err != nil {
				return "absent"
			}
			return m.Data["ca.crt"]
		}
		if in("a") != "the authority" || in("b") != "the authority" || in("going") != "absent" {
			t.Errorf("a: %q, b: %q, going: %q", in("a"), in("b"), in("going"))
		}
		m := controllertest.Must(w.Client.CoreV1().ConfigMaps("a").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{}))
		m.Data["ca.crt"] = "forged"
		controllertest.Must(w.Client.CoreV1().ConfigMaps("a").Update(ctx, m, metav1.UpdateOptions{}))
		w.Check(w.Client.CoreV1().ConfigMaps("b").Delete(ctx, "kube-root-ca.crt", metav1.DeleteOptions{}))
		w.After(time.Second)
		if in("a") != "the authority" || in("b") != "the authority" {
			t.Errorf("forged and deleted: a %q, b %q", in("a"), in("b"))
		}
	})
}
