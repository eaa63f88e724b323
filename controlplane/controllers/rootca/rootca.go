// SPDX-License-Identifier: Apache-2.0

// Package rootca publishes the cluster's certificate authority in the ConfigMap kube-root-ca.crt of every namespace, from where the projected
// service-account volume brings it into pods.
//
// It watches Namespaces and the ConfigMaps of that one name. It creates them and puts back what others changed in them.
package rootca

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	name = "kube-root-ca.crt"
	key  = "ca.crt"
)

type loop struct {
	c          *controller.Context
	queue      *controller.Queue
	namespaces corelisters.NamespaceLister
	maps       cache.SharedIndexInformer // only those of our name: the other ConfigMaps of a cluster would be memory for nothing
	synced     []cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("root-ca-cert-publisher", "root-ca-cert-publisher")
	namespaces := c.Informers.Core().V1().Namespaces()
	maps := coreinformers.NewFilteredConfigMapInformer(c.Reader, metav1.NamespaceAll, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	})
	l := &loop{
		c: c, namespaces: namespaces.Lister(), maps: maps,
		synced: []cache.InformerSynced{namespaces.Informer().HasSynced, maps.HasSynced},
	}
	l.queue = c.Queue("rootca", l.sync)
	controller.On(namespaces.Informer(), l.queue.Enqueue)
	controller.On(maps, func(obj any) {
		if m, ok := controller.Object[*corev1.ConfigMap](obj); ok && m.Name == name {
			l.queue.Add(m.Namespace)
		}
	})
	return l
}

func (l *loop) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.maps.RunWithContext(ctx)
	}()
	err := l.queue.Run(ctx, l.c.Settings.Workers, l.synced...)
	<-done
	return err
}

// sync makes a namespace's ConfigMap say what the settings say.
func (l *loop) sync(ctx context.Context, namespace string) error {
	ns, err := l.namespaces.Get(namespace)
	if err != nil {
		return controller.IgnoreNotFound(err)
	}
	if ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating {
		return nil
	}
	want := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name,
			Annotations: map[string]string{"kubernetes.io/description": "The certificate authority of this cluster's API server, for clients inside the cluster."},
		},
		Data: map[string]string{key: string(l.c.Settings.RootCA)},
	}
	obj, exists, err := l.maps.GetIndexer().GetByKey(namespace + "/" + name)
	if err != nil {
		return err
	}
	if !exists {
		_, err := l.c.Client.CoreV1().ConfigMaps(namespace).Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	}
	have := obj.(*corev1.ConfigMap)
	if equality.Semantic.DeepEqual(have.Data, want.Data) && len(have.BinaryData) == 0 {
		return nil
	}
	have = have.DeepCopy()
	have.Data, have.BinaryData = want.Data, nil
	_, err = l.c.Client.CoreV1().ConfigMaps(namespace).Update(ctx, have, metav1.UpdateOptions{})
	return err
}
