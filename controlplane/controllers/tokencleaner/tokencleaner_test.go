// SPDX-License-Identifier: Apache-2.0

package tokencleaner_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	api "k8s.io/cluster-bootstrap/token/api"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/tokencleaner"
)

func TestATokenGoesWhenItExpiresAndNothingElseDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := func(name string, kind corev1.SecretType, expires string) runtime.Object {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name}, Type: kind, Data: map[string][]byte{}}
			if expires != "" {
				s.Data[api.BootstrapTokenExpirationKey] = []byte(expires)
			}
			return s
		}
		in := func(d time.Duration) string { return time.Now().Add(d).Format(time.RFC3339) }
		w := controllertest.NewWorld(t, []runtime.Object{
			secret("expired", api.SecretTypeBootstrapToken, in(-time.Minute)), secret("soon", api.SecretTypeBootstrapToken, in(time.Hour)),
			secret("never", api.SecretTypeBootstrapToken, ""), secret("unreadable", api.SecretTypeBootstrapToken, "tomorrow"), secret("foreign", corev1.SecretTypeOpaque, in(-time.Minute)),
		}, tokencleaner.New)
		defer w.Close()
		names := func() (out []string) {
			for _, s := range controllertest.Must(w.Client.CoreV1().Secrets(metav1.NamespaceSystem).List(context.Background(), metav1.ListOptions{})).Items {
				out = append(out, s.Name)
			}
			return out
		}
		if got := fmt.Sprint(names()); got != "[foreign never soon]" {
			t.Errorf("left at once: %s", got)
		}
		w.After(59 * time.Minute)
		if got := fmt.Sprint(names()); got != "[foreign never soon]" {
			t.Errorf("left before the hour: %s", got)
		}
		w.After(2 * time.Minute)
		if got := fmt.Sprint(names()); got != "[foreign never]" {
			t.Errorf("left after the hour: %s", got)
		}
	})
}
