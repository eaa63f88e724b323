// SPDX-License-Identifier: Apache-2.0

package storagemigration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/storagemigration"
)

var ctx = context.Background()

func migration(resource string) runtime.Object {
	return &migrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: resource}}}
}

func objects(n int) []runtime.Object {
	var out []runtime.Object
	for i := range n {
		out = append(out, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns", i%3), Name: fmt.Sprint("s", i)}})
	}
	return append(out, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns0", Name: "c"}}, controllertest.Node("n"))
}

// state is the conditions of the migration that are true.
func state(w *controllertest.World) (string, string) {
	m := controllertest.Must(w.Client.StoragemigrationV1().StorageVersionMigrations().Get(ctx, "m", metav1.GetOptions{}))
	var is []string
	message := ""
	for _, c := range m.Status.Conditions {
		if c.Status == metav1.ConditionTrue {
			is, message = append(is, c.Type), c.Message
		}
	}
	return strings.Join(is, " "), message
}

func TestEveryObjectOfTheResourceIsWrittenOnceAndNoOther(t *testing.T) {
	for _, test := range []struct {
		resource string
		writes   int
	}{{"secrets", 20}, {"nodes", 1}} {
		t.Run(test.resource, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := controllertest.NewWorld(t, append(objects(20), migration(test.resource)), storagemigration.New)
				defer w.Close()
				w.After(time.Hour)
				if got, _ := state(w); got != "Succeeded" || w.Writes("patch "+test.resource) != test.writes {
					t.Errorf("%s after %d writes, want Succeeded after %d", got, w.Writes("patch "+test.resource), test.writes)
				}
				if n := w.Writes("patch configmaps"); n != 0 {
					t.Errorf("%d writes of another resource", n)
				}
			})
		})
	}
}

func TestAnErrorThatPassesIsSatOutAndARefusalEndsIt(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"the server is busy", apierrors.NewTooManyRequests("busy", 1), "Succeeded"},
		{"the network breaks", errors.New("connection reset"), "Succeeded"},
		{"somebody else wrote it", apierrors.NewConflict(corev1.Resource("secrets"), "s3", errors.New("newer")), "Succeeded"},
		{"somebody else deleted it", apierrors.NewNotFound(corev1.Resource("secrets"), "s3"), "Succeeded"},
		{"a webhook forbids it", apierrors.NewForbidden(corev1.Resource("secrets"), "s3", errors.New("frozen")), "Failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := controllertest.NewWorld(t, objects(10), storagemigration.New)
				defer w.Close()
				failures := 3
				w.Refuse = func(a clienttesting.Action) error {
					if p, ok := a.(clienttesting.PatchAction); ok && p.GetName() == "s3" && failures > 0 {
						failures--
						return test.err
					}
					return nil
				}
				m := migration("secrets").(*migrationv1.StorageVersionMigration)
				controllertest.Must(w.Client.StoragemigrationV1().StorageVersionMigrations().Create(ctx, m, metav1.CreateOptions{}))
				w.After(10 * time.Minute)
				got, message := state(w)
				if got != test.want {
					t.Errorf("%s: %s, want %s", got, message, test.want)
				}
				if test.want == "Failed" && (!strings.Contains(message, "s3") || !strings.Contains(message, "frozen")) {
					t.Errorf("the message does not say which object and why: %s", message)
				}
			})
		})
	}
}

func TestAResourceNobodyServesIsWaitedForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{migration("widgets")}, storagemigration.New)
		defer w.Close()
		w.After(50 * time.Second)
		if got, message := state(w); got != "" {
			t.Errorf("%s: %s before the minute is over", got, message)
		}
		w.After(time.Minute)
		if got, message := state(w); got != "Failed" || !strings.Contains(message, "widgets") {
			t.Errorf("%s: %s", got, message)
		}
	})
}

// TestACrashInTheMiddleIsMadeGood, and what has ended is not begun again by a new leader.
func TestACrashInTheMiddleIsMadeGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, objects(10), storagemigration.New)
		defer w.Close()
		w.P.CrashAfter(5)
		controllertest.Must(w.Client.StoragemigrationV1().StorageVersionMigrations().Create(ctx, migration("secrets").(*migrationv1.StorageVersionMigration), metav1.CreateOptions{}))
		w.Wait()
		if got, _ := state(w); got != "Running" {
			t.Fatalf("%s after the crash, want Running", got)
		}
		w.Restart()
		w.After(time.Minute)
		if got, _ := state(w); got != "Succeeded" {
			t.Fatalf("%s after the restart", got)
		}
		n := w.Writes("patch secrets")
		w.Restart()
		w.After(time.Hour)
		if w.Writes("patch secrets") != n {
			t.Error("an ended migration was begun again")
		}
		m := controllertest.Must(w.Client.StoragemigrationV1().StorageVersionMigrations().Get(ctx, "m", metav1.GetOptions{}))
		if !meta.IsStatusConditionFalse(m.Status.Conditions, string(migrationv1.MigrationRunning)) {
			t.Errorf("conditions %+v", m.Status.Conditions)
		}
	})
}
