// SPDX-License-Identifier: Apache-2.0

package replicationcontroller_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/replicationcontroller"
)

var ctx = context.Background()

func newController(replicas int32) *corev1.ReplicationController {
	web := map[string]string{"app": "web"}
	return &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ReplicationControllerSpec{
		Replicas: &replicas, Selector: web, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
}

func get(w *controllertest.World) *corev1.ReplicationController {
	return controllertest.Must(w.Client.CoreV1().ReplicationControllers("ns").Get(ctx, "web", metav1.GetOptions{}))
}

func TestItKeepsItsPodsAndTellsHowMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{newController(3)}, replicationcontroller.New)
		defer w.Close()
		w.Rest()
		pods := w.Pods()
		if s := get(w).Status; len(pods) != 3 || s.Replicas != 3 || s.ReadyReplicas != 3 || s.AvailableReplicas != 3 || s.FullyLabeledReplicas != 3 || s.ObservedGeneration != get(w).Generation {
			t.Errorf("%d pods, status %+v", len(pods), s)
		}
		if ref := metav1.GetControllerOf(pods[0]); ref == nil || ref.Kind != "ReplicationController" || ref.APIVersion != "v1" || ref.Name != "web" {
			t.Errorf("owner %+v", ref)
		}
		rc := get(w)
		rc.Spec.Replicas = ptr.To[int32](1)
		controllertest.Must(w.Client.CoreV1().ReplicationControllers("ns").Update(ctx, rc, metav1.UpdateOptions{}))
		w.Rest()
		if n := len(w.Pods()); n != 1 || get(w).Status.Replicas != 1 {
			t.Errorf("%d pods after scaling down, status %+v", n, get(w).Status)
		}
		if rc := get(w); rc.Spec.Template == nil || rc.Spec.Selector["app"] != "web" {
			t.Errorf("a status write changed the spec: %+v", rc.Spec)
		}
	})
}

func TestARefusedPodIsACondition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, nil, replicationcontroller.New)
		defer w.Close()
		w.Refuse = func(a clienttesting.Action) error {
			if a.Matches("create", "pods") {
				return apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("exceeded quota"))
			}
			return nil
		}
		controllertest.Must(w.Client.CoreV1().ReplicationControllers("ns").Create(ctx, newController(2), metav1.CreateOptions{}))
		w.Wait()
		if c := get(w).Status.Conditions; len(c) != 1 || c[0].Type != corev1.ReplicationControllerReplicaFailure || c[0].Reason != "FailedCreate" {
			t.Errorf("conditions %+v", c)
		}
	})
}
