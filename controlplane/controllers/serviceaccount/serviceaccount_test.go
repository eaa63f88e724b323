// SPDX-License-Identifier: Apache-2.0

package serviceaccount_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/serviceaccount"
)

var ctx = context.Background()

func TestEveryLivingNamespaceHasItsDefaultAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ns := func(name string, phase corev1.NamespacePhase) *corev1.Namespace {
			return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: phase}}
		}
		mine := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "had", Name: "default", Annotations: map[string]string{"mine": "yes"}}}
		w := controllertest.NewWorld(t, []runtime.Object{ns("a", corev1.NamespaceActive), ns("had", corev1.NamespaceActive), ns("going", corev1.NamespaceTerminating), mine}, serviceaccount.New)
		defer w.Close()
		has := func(namespace string) bool {
			_, err := w.Client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
			return err == nil
		}
		if !has("a") || has("going") {
			t.Errorf("account in a: %v, in the namespace that is going: %v", has("a"), has("going"))
		}
		controllertest.Must(w.Client.CoreV1().Namespaces().Create(ctx, ns("later", corev1.NamespaceActive), metav1.CreateOptions{}))
		w.Check(w.Client.CoreV1().ServiceAccounts("a").Delete(ctx, "default", metav1.DeleteOptions{}))
		w.After(time.Second)
		if !has("later") || !has("a") {
			t.Errorf("account in a later namespace: %v; deleted by somebody, back: %v", has("later"), has("a"))
		}
		if sa := controllertest.Must(w.Client.CoreV1().ServiceAccounts("had").Get(ctx, "default", metav1.GetOptions{})); sa.Annotations["mine"] != "yes" || w.Writes("update serviceaccounts") != 0 {
			t.Error("an account that was there was changed")
		}
	})
}
