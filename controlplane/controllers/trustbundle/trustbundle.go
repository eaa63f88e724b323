// SPDX-License-Identifier: Apache-2.0

// Package trustbundle publishes the certificate authority of the API server's serving certificates as a ClusterTrustBundle of the signer
// kubernetes.io/kube-apiserver-serving, for pods that project it and clients that look it up.
//
// It watches ClusterTrustBundles of that signer. The bundle's name ends in a hash of what it holds, so a new authority is a new bundle; the old ones are deleted once the
// new one is there.
package trustbundle

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	certinformers "k8s.io/client-go/informers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	signer = "kubernetes.io/kube-apiserver-serving"
	key    = "all" // there is one piece of work
)

type loop struct {
	c       *controller.Context
	queue   *controller.Queue
	bundles cache.SharedIndexInformer
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("kube-apiserver-serving-clustertrustbundle-publisher", "kube-apiserver-serving-clustertrustbundle-publisher")
	l := &loop{c: c}
	l.bundles = certinformers.NewFilteredClusterTrustBundleInformer(c.Client, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.signerName", signer).String()
	})
	l.queue = c.Queue("trustbundle", l.sync)
	controller.On(l.bundles, func(any) { l.queue.Add(key) })
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.bundles.RunWithContext(ctx)
	}()
	l.queue.Add(key)
	err := l.queue.Run(ctx, 1, l.bundles.HasSynced)
	<-done
	return err
}

// name is the signer with colons for slashes, as the API demands, and a hash of what the bundle holds.
func name(bundle []byte) string {
	sum := sha256.Sum256(bundle)
	return fmt.Sprintf("%s:%x", strings.ReplaceAll(signer, "/", ":"), sum[:12])
}

// sync makes the present authority's bundle the only one of the signer. Without an authority nothing is published, and nothing deleted.
func (l *loop) sync(ctx context.Context, _ string) error {
	if len(l.c.Settings.RootCA) == 0 {
		return nil
	}
	api := l.c.Client.CertificatesV1().ClusterTrustBundles()
	want := &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: name(l.c.Settings.RootCA)},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(l.c.Settings.RootCA)},
	}
	obj, exists, err := l.bundles.GetIndexer().GetByKey(want.Name)
	if err != nil {
		return err
	}
	have, _ := obj.(*certificatesv1.ClusterTrustBundle)
	switch {
	case !exists:
		if _, err := api.Create(ctx, want, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("publish the trust bundle %s: %w", want.Name, err)
		}
	case have != nil && have.Spec.TrustBundle != want.Spec.TrustBundle:
		have = have.DeepCopy()
		have.Spec.TrustBundle = want.Spec.TrustBundle
		if _, err := api.Update(ctx, have, metav1.UpdateOptions{}); err != nil {
			return controller.IgnoreNotFound(err)
		}
	}
	for _, obj := range l.bundles.GetIndexer().List() {
		old, ok := obj.(*certificatesv1.ClusterTrustBundle)
		if !ok || old.Name == want.Name || old.Spec.SignerName != signer {
			continue
		}
		if err := api.Delete(ctx, old.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &old.UID}}); controller.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}
