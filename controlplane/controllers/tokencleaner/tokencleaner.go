// SPDX-License-Identifier: Apache-2.0

// Package tokencleaner deletes bootstrap tokens that have expired. It watches and deletes Secrets of type bootstrap.kubernetes.io/token in kube-system.
package tokencleaner

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	api "k8s.io/cluster-bootstrap/token/api"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

type loop struct {
	c       *controller.Context
	queue   *controller.Queue
	secrets cache.SharedIndexInformer
}

// Tokens is an informer of the bootstrap tokens alone: other Secrets are nobody's business here.
func Tokens(client kubernetes.Interface) cache.SharedIndexInformer {
	return coreinformers.NewFilteredSecretInformer(client, metav1.NamespaceSystem, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("type", string(api.SecretTypeBootstrapToken)).String()
	})
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("token-cleaner", "token-cleaner")
	l := &loop{c: c, secrets: Tokens(c.Client)}
	l.queue = c.Queue("tokencleaner", l.sync)
	controller.On(l.secrets, l.queue.Enqueue)
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.secrets.RunWithContext(ctx)
	}()
	err := l.queue.Run(ctx, 1, l.secrets.HasSynced)
	<-done
	return err
}

// sync deletes a token that has expired, or comes back when it will have. A token without an expiration never expires; one whose expiration cannot be read counts as expired.
func (l *loop) sync(ctx context.Context, key string) error {
	obj, exists, err := l.secrets.GetIndexer().GetByKey(key)
	if err != nil || !exists {
		return err
	}
	secret, ok := obj.(*corev1.Secret)
	text, has := secret.Data[api.BootstrapTokenExpirationKey]
	if !ok || secret.Type != api.SecretTypeBootstrapToken || !has || len(text) == 0 {
		return nil
	}
	if at, err := time.Parse(time.RFC3339, string(text)); err == nil {
		if left := at.Sub(l.c.Clock.Now()); left > 0 {
			l.queue.AddAfter(key, left)
			return nil
		}
	}
	return controller.IgnoreNotFound(l.c.Client.CoreV1().Secrets(secret.Namespace).Delete(ctx, secret.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &secret.UID},
	}))
}
