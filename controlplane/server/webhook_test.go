// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
)

// TestWebhookThatDoesNotAnswer reaches an admission webhook by its Service; it takes longer than it may, and the failure policy decides.
func TestWebhookThatDoesNotAnswer(t *testing.T) {
	env, stop := start(t, shortDir(t))
	defer stop()
	client := kubernetes.NewForConfigOrDie(env.Client)
	const ns = "default"
	asked := make(chan struct{}, 100)
	ended := make(chan struct{})
	port, ca := apitest.BehindService(t, client, "sleeper", func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-ended:
		}
	})
	defer close(ended)
	hooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	hook, err := hooks.Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "sleeper"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "sleeper.example.com", TimeoutSeconds: ptr.To[int32](1), FailurePolicy: ptr.To(admissionregistrationv1.Fail),
			SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{admissionv1.SchemeGroupVersion.Version},
			ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: ca,
				Service: &admissionregistrationv1.ServiceReference{Namespace: "default", Name: "sleeper", Port: &port}},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": ns}},
			Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"CREATE"},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	create := func() error {
		n++
		_, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c-%d", n)}}, metav1.CreateOptions{})
		return err
	}
	until(t, "the webhook is asked and a write fails with an error that names it", func(int) bool {
		err := create()
		select {
		case <-asked:
			return apierrors.IsInternalError(err) && strings.Contains(err.Error(), "sleeper.example.com")
		default:
			return false
		}
	})
	hook.Webhooks[0].FailurePolicy = ptr.To(admissionregistrationv1.Ignore)
	if _, err := hooks.Update(t.Context(), hook, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "a write succeeds with failurePolicy Ignore", func(int) bool { return create() == nil })
	started := time.Now()
	if err := create(); err != nil {
		t.Errorf("with failurePolicy Ignore: %v", err)
	}
	if took := time.Since(started); took < time.Second {
		t.Errorf("the webhook was given %s, want its timeout of 1 s", took)
	}
}
