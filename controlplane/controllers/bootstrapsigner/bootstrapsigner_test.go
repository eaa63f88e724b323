// SPDX-License-Identifier: Apache-2.0

package bootstrapsigner_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	api "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"

	"github.com/fairlead/fairlead/controlplane/controllers/bootstrapsigner"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
)

var ctx = context.Background()

func token(id string, change func(map[string][]byte)) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: api.BootstrapTokenSecretPrefix + id}, Type: api.SecretTypeBootstrapToken,
		Data: map[string][]byte{api.BootstrapTokenIDKey: []byte(id), api.BootstrapTokenSecretKey: []byte("0123456789abcdef"), api.BootstrapTokenUsageSigningKey: []byte("true")}}
	if change != nil {
		change(s.Data)
	}
	return s
}

func info(config string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: api.ConfigMapClusterInfo},
		Data: map[string]string{api.KubeConfigKey: config, api.JWSSignatureKeyPrefix + "old000": "of a token that is gone", "other": "stays"}}
}

func TestWhoSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controllertest.NewWorld(t, []runtime.Object{
			info("config"), token("aaaaaa", nil),
			token("bbbbbb", func(d map[string][]byte) { delete(d, api.BootstrapTokenUsageSigningKey) }),
			token("cccccc", func(d map[string][]byte) {
				d[api.BootstrapTokenExpirationKey] = []byte(time.Now().Add(-time.Minute).Format(time.RFC3339))
			}),
			token("dddddd", func(d map[string][]byte) { d[api.BootstrapTokenIDKey] = []byte("eeeeee") }), // a name that is not its own
		}, bootstrapsigner.New)
		defer w.Close()
		data := func() map[string]string {
			return controllertest.Must(w.Client.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(ctx, api.ConfigMapClusterInfo, metav1.GetOptions{})).Data
		}
		var signed []string
		for key := range data() {
			if id, ok := strings.CutPrefix(key, api.JWSSignatureKeyPrefix); ok {
				signed = append(signed, id)
			}
		}
		if !slices.Equal(signed, []string{"aaaaaa"}) || data()["other"] != "stays" {
			t.Errorf("signed by %v, data %v", signed, data())
		}
		if !jws.DetachedTokenIsValid(data()[api.JWSSignatureKeyPrefix+"aaaaaa"], "config", "aaaaaa", "0123456789abcdef") {
			t.Error("the signature does not hold")
		}
		changed := controllertest.Must(w.Client.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(ctx, api.ConfigMapClusterInfo, metav1.GetOptions{}))
		changed.Data[api.KubeConfigKey] = "config 2"
		controllertest.Must(w.Client.CoreV1().ConfigMaps(metav1.NamespacePublic).Update(ctx, changed, metav1.UpdateOptions{}))
		w.Wait()
		if !jws.DetachedTokenIsValid(data()[api.JWSSignatureKeyPrefix+"aaaaaa"], "config 2", "aaaaaa", "0123456789abcdef") {
			t.Error("a changed config was not signed again")
		}
		w.Check(w.Client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, "bootstrap-token-aaaaaa", metav1.DeleteOptions{}))
		w.Wait()
		if s := data()[api.JWSSignatureKeyPrefix+"aaaaaa"]; s != "" {
			t.Error("the signature of a token that is gone stays")
		}
	})
}
