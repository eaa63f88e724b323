// SPDX-License-Identifier: Apache-2.0

package trustbundle_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/trustbundle"
)

var ctx = context.Background()

const (
	signer = "kubernetes.io/kube-apiserver-serving"
	// printf 'the authority' | sha256sum, 24 digits
	wanted = "kubernetes.io:kube-apiserver-serving:2f612323bf22d38050ba25b6"
)

func bundle(name, signer, pem string) *certificatesv1.ClusterTrustBundle {
	return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: pem}}
}

func start(t *testing.T, authority string, objs ...runtime.Object) *controllertest.World {
	return controllertest.NewWorld(t, objs, func(c *controller.Context) controller.Controller {
		c.Settings.RootCA = []byte(authority)
		return trustbundle.New(c)
	})
}

// all are the bundles' contents by name.
func all(w *controllertest.World) map[string]string {
	out := map[string]string{}
	for _, b := range controllertest.Must(w.Client.CertificatesV1().ClusterTrustBundles().List(ctx, metav1.ListOptions{})).Items {
		out[b.Name] = b.Spec.TrustBundle
	}
	return out
}

func TestTheAuthorityIsPublishedAndOlderOnesGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, "the authority", bundle("kubernetes.io:kube-apiserver-serving:old", signer, "the old one"), bundle("example.com:x:1", "example.com/x", "foreign"), bundle("mine", "", "no signer"))
		defer w.Close()
		got := all(w)
		if len(got) != 3 || got[wanted] != "the authority" || got["example.com:x:1"] != "foreign" || got["mine"] != "no signer" {
			t.Errorf("bundles %v", got)
		}
	})
}

func TestWhatSomebodyDeletedOrChangedComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, "the authority")
		defer w.Close()
		api := w.Client.CertificatesV1().ClusterTrustBundles()
		b := controllertest.Must(api.Get(ctx, wanted, metav1.GetOptions{}))
		b.Spec.TrustBundle = "forged"
		controllertest.Must(api.Update(ctx, b, metav1.UpdateOptions{}))
		if w.After(time.Second); all(w)[wanted] != "the authority" {
			t.Errorf("after a forgery: %v", all(w))
		}
		w.Check(api.Delete(ctx, wanted, metav1.DeleteOptions{}))
		if w.After(time.Second); all(w)[wanted] != "the authority" {
			t.Errorf("after a deletion: %v", all(w))
		}
	})
}

// TestTheOldBundleStaysUntilTheNewOneIsThere: clients must not be left without any.
func TestTheOldBundleStaysUntilTheNewOneIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, "the authority")
		defer w.Close()
		w.Refuse = func(a clienttesting.Action) error {
			if a.Matches("create", "clustertrustbundles") {
				return apierrors.NewInternalError(errors.New("not now"))
			}
			return nil
		}
		api := w.Client.CertificatesV1().ClusterTrustBundles()
		w.Check(api.Delete(ctx, wanted, metav1.DeleteOptions{}))
		controllertest.Must(api.Create(ctx, bundle("kubernetes.io:kube-apiserver-serving:old", signer, "the old one"), metav1.CreateOptions{}))
		if w.After(time.Minute); len(all(w)) != 1 {
			t.Errorf("the new bundle could not be made, and there are %v", all(w))
		}
		w.Refuse = nil
		w.After(time.Hour)
		if got := all(w); len(got) != 1 || got[wanted] == "" {
			t.Errorf("bundles %v", got)
		}
	})
}
