// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
)

func TestServe(t *testing.T) {
	started := time.Now()
	client := kubernetes.NewForConfigOrDie(apitest.Start(t, apitest.Options{}))
	t.Logf("ready after %s", time.Since(started))
	ctx := t.Context()
	cm, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "a-"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.CoreV1().ConfigMaps("default").Get(ctx, cm.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Data["k"] != "v" || got.UID == "" || got.ResourceVersion == "" {
		t.Errorf("read back %v", got)
	}
	svc, err := client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if svc.Spec.ClusterIP != "10.96.0.1" {
		t.Errorf("Service kubernetes has ClusterIP %s, want 10.96.0.1", svc.Spec.ClusterIP)
	}
}
