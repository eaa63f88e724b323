// SPDX-License-Identifier: Apache-2.0

// Package serviceaccount sees to it that every active namespace has the service account "default", which pods without another one run as.
//
// It watches Namespaces and ServiceAccounts and creates ServiceAccounts. It never changes an existing one.
package serviceaccount

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const name = "default"

type loop struct {
	c          *controller.Context
	queue      *controller.Queue
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
	synced     []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("service-account-controller", "service-account-controller")
	namespaces, accounts := c.Informers.Core().V1().Namespaces(), c.Informers.Core().V1().ServiceAccounts()
	l := &loop{
		c: c, namespaces: namespaces.Lister(), accounts: accounts.Lister(),
		synced: []cache.InformerSynced{namespaces.Informer().HasSynced, accounts.Informer().HasSynced},
	}
	l.queue = c.Queue("serviceaccount", l.sync)
	controller.On(namespaces.Informer(), l.queue.Enqueue)
	controller.Watch(accounts.Informer(), func(old, obj any) {
		if sa, ok := controller.Object[*corev1.ServiceAccount](obj); ok && old == obj && sa.Name == name {
			l.queue.Add(sa.Namespace)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
}

// sync creates the default account of a namespace unless it exists or the namespace is going away.
func (l *loop) sync(ctx context.Context, namespace string) error {
	ns, err := l.namespaces.Get(namespace)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	if ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return nil
	}
	if _, err := l.accounts.ServiceAccounts(namespace).Get(name); !apierrors.IsNotFound(err) {
		return err
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	_, err = l.c.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, sa, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
