// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// Getter reads the objects that tokens are bound to. Absence is a NotFound API error.
type Getter interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// NewGetter returns a Getter that asks the informers' caches first and the API server for what they do not know (yet). Secrets are
// always read from the API server: no process should keep all of them in memory.
func NewGetter(client kubernetes.Interface, factory informers.SharedInformerFactory) Getter {
	core := factory.Core().V1()
	accounts, pods, nodes := core.ServiceAccounts().Lister(), core.Pods().Lister(), core.Nodes().Lister()
	return getter{
		client:         client,
		serviceAccount: func(ns, name string) (*corev1.ServiceAccount, error) { return accounts.ServiceAccounts(ns).Get(name) },
		pod:            func(ns, name string) (*corev1.Pod, error) { return pods.Pods(ns).Get(name) },
		node:           nodes.Get,
	}
}

type getter struct {
	client         kubernetes.Interface
	serviceAccount func(namespace, name string) (*corev1.ServiceAccount, error)
	pod            func(namespace, name string) (*corev1.Pod, error)
	node           func(name string) (*corev1.Node, error)
}

func (g getter) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if sa, err := g.serviceAccount(namespace, name); !apierrors.IsNotFound(err) {
		return sa, err
	}
	return g.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g getter) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if pod, err := g.pod(namespace, name); !apierrors.IsNotFound(err) {
		return pod, err
	}
	return g.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g getter) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return g.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g getter) Node(ctx context.Context, name string) (*corev1.Node, error) {
	if node, err := g.node(name); !apierrors.IsNotFound(err) {
		return node, err
	}
	return g.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}

// NewLiveGetter returns a Getter that always asks the API server. Issuing uses it: a token must not be bound to an object of the past.
func NewLiveGetter(client kubernetes.Interface) Getter { return liveGetter{client} }

type liveGetter struct{ client kubernetes.Interface }

func (g liveGetter) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return g.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g liveGetter) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return g.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g liveGetter) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return g.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (g liveGetter) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return g.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}
