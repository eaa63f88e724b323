// SPDX-License-Identifier: Apache-2.0

// Package bootstrapsigner signs the ConfigMap kube-public/cluster-info with every bootstrap token that may sign, so that a node that knows a token can trust
// what it reads there without knowing the cluster's certificate authority.
//
// It watches that ConfigMap and the bootstrap tokens, and writes the ConfigMap's jws-kubeconfig-ID keys.
package bootstrapsigner

import (
	"context"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	api "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/tokencleaner"
)

const key = metav1.NamespacePublic + "/" + api.ConfigMapClusterInfo

type loop struct {
	c            *controller.Context
	queue        *controller.Queue
	maps, tokens cache.SharedIndexInformer
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("bootstrap-signer", "bootstrap-signer")
	l := &loop{c: c, tokens: tokencleaner.Tokens(c.Client)}
	l.maps = coreinformers.NewFilteredConfigMapInformer(c.Client, metav1.NamespacePublic, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", api.ConfigMapClusterInfo).String()
	})
	l.queue = c.Queue("bootstrapsigner", l.sync)
	for _, inf := range []cache.SharedIndexInformer{l.tokens, l.maps} {
		controller.On(inf, func(any) { l.queue.Add(key) })
	}
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{}, 2)
	for _, inf := range []cache.SharedIndexInformer{l.tokens, l.maps} {
		go func() {
			inf.RunWithContext(ctx)
			done <- struct{}{}
		}()
	}
	err := l.queue.Run(ctx, 1, l.tokens.HasSynced, l.maps.HasSynced)
	<-done
	<-done
	return err
}

// sync makes the signatures in the ConfigMap those of the present tokens.
func (l *loop) sync(ctx context.Context, _ string) error {
	obj, exists, err := l.maps.GetIndexer().GetByKey(key)
	if err != nil || !exists {
		return err // whoever installs the cluster writes it
	}
	had, ok := obj.(*corev1.ConfigMap)
	config, signable := had.Data[api.KubeConfigKey]
	if !ok || !signable {
		return nil
	}
	want := maps.Clone(had.Data)
	maps.DeleteFunc(want, func(k, _ string) bool { return strings.HasPrefix(k, api.JWSSignatureKeyPrefix) })
	for _, obj := range l.tokens.GetIndexer().List() {
		secret, ok := obj.(*corev1.Secret)
		if !ok || !maySign(secret, l.c.Clock.Now()) {
			continue
		}
		id := string(secret.Data[api.BootstrapTokenIDKey])
		signature, err := jws.ComputeDetachedSignature(config, id, string(secret.Data[api.BootstrapTokenSecretKey]))
		if err != nil {
			return err
		}
		want[api.JWSSignatureKeyPrefix+id] = signature
	}
	if maps.Equal(want, had.Data) {
		return nil
	}
	had = had.DeepCopy()
	had.Data = want
	_, err = l.c.Client.CoreV1().ConfigMaps(had.Namespace).Update(ctx, had, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

func maySign(secret *corev1.Secret, now time.Time) bool {
	id, token := string(secret.Data[api.BootstrapTokenIDKey]), string(secret.Data[api.BootstrapTokenSecretKey])
	if secret.Type != api.SecretTypeBootstrapToken || id == "" || token == "" || secret.Name != api.BootstrapTokenSecretPrefix+id ||
		string(secret.Data[api.BootstrapTokenUsageSigningKey]) != "true" {
		return false
	}
	text := string(secret.Data[api.BootstrapTokenExpirationKey])
	if text == "" {
		return true
	}
	at, err := time.Parse(time.RFC3339, text)
	return err == nil && at.After(now)
}
