// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"bytes"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// Secrets fills Secrets of type kubernetes.io/service-account-token with token, authority and namespace, and deletes them with their
// service account. It watches only Secrets of that type. It runs beside the API server because it needs the signing key.
type Secrets struct {
	client   kubernetes.Interface
	issuer   *Issuer
	rootCA   func() []byte
	factory  informers.SharedInformerFactory // of the Secrets of that type alone
	secrets  corelisters.SecretLister
	accounts corelisters.ServiceAccountLister
	synced   []cache.InformerSynced
	queue    *controller.Queue
}

// NewSecrets registers with shared, which the caller starts. rootCA returns the PEM bundle that goes into each Secret.
func NewSecrets(client kubernetes.Interface, shared informers.SharedInformerFactory, issuer *Issuer, rootCA func() []byte) (*Secrets, error) {
	s := &Secrets{client: client, issuer: issuer, rootCA: rootCA}
	s.factory = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken)).String()
	}))
	s.queue = controller.NewQueue("serviceaccounttokens", clock.RealClock{}, s.sync)
	secrets, accounts := s.factory.Core().V1().Secrets(), shared.Core().V1().ServiceAccounts()
	s.secrets, s.accounts = secrets.Lister(), accounts.Lister()
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		secrets.Informer():  cache.ResourceEventHandlerFuncs{AddFunc: s.queue.Enqueue, UpdateFunc: func(_, obj any) { s.queue.Enqueue(obj) }},
		accounts.Informer(): cache.ResourceEventHandlerFuncs{DeleteFunc: s.accountGone},
	} {
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, err
		}
		s.synced = append(s.synced, registration.HasSynced)
	}
	return s, nil
}

// Run works until ctx ends.
func (s *Secrets) Run(ctx context.Context) error {
	s.factory.Start(ctx.Done())
	defer s.factory.Shutdown()
	return s.queue.Run(ctx, 2, s.synced...)
}

// accountGone asks for a sync of every Secret of a deleted service account.
func (s *Secrets) accountGone(obj any) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	sa, ok := obj.(*corev1.ServiceAccount)
	if !ok {
		return
	}
	list, err := s.secrets.Secrets(sa.Namespace).List(labels.Everything())
	if err != nil {
		return // the lister only reads memory
	}
	for _, secret := range list {
		if secret.Annotations[corev1.ServiceAccountNameKey] == sa.Name {
			s.queue.Enqueue(secret)
		}
	}
}

func (s *Secrets) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	secret, err := s.secrets.Secrets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	account := secret.Annotations[corev1.ServiceAccountNameKey]
	if account == "" || secret.DeletionTimestamp != nil {
		return nil
	}
	sa, err := s.accounts.ServiceAccounts(namespace).Get(account)
	if err != nil || secret.Annotations[corev1.ServiceAccountUIDKey] != "" && secret.Annotations[corev1.ServiceAccountUIDKey] != string(sa.UID) {
		// Before something is deleted, the API's word counts.
		sa, err = s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, account, metav1.GetOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	uid := secret.Annotations[corev1.ServiceAccountUIDKey]
	if apierrors.IsNotFound(err) || uid != "" && uid != string(sa.UID) {
		err := s.client.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID}})
		return controller.IgnoreNotFound(err)
	}
	filled, err := s.fill(secret, sa)
	if err != nil || filled == nil {
		return err
	}
	_, err = s.client.CoreV1().Secrets(namespace).Update(ctx, filled, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

// fill returns secret completed, nil when nothing is missing.
func (s *Secrets) fill(secret *corev1.Secret, sa *corev1.ServiceAccount) (*corev1.Secret, error) {
	ca := s.rootCA()
	has := func(key string, want []byte) bool { return bytes.Equal(secret.Data[key], want) }
	if len(secret.Data[corev1.ServiceAccountTokenKey]) > 0 && has(corev1.ServiceAccountRootCAKey, ca) &&
		has(corev1.ServiceAccountNamespaceKey, []byte(secret.Namespace)) && secret.Annotations[corev1.ServiceAccountUIDKey] == string(sa.UID) {
		return nil, nil
	}
	out := secret.DeepCopy()
	if out.Data == nil {
		out.Data = map[string][]byte{}
	}
	out.Annotations[corev1.ServiceAccountUIDKey] = string(sa.UID)
	out.Data[corev1.ServiceAccountRootCAKey], out.Data[corev1.ServiceAccountNamespaceKey] = ca, []byte(secret.Namespace)
	if len(out.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := s.issuer.IssueLegacy(sa, secret)
		if err != nil {
			return nil, fmt.Errorf("token for secret %s/%s: %w", secret.Namespace, secret.Name, err)
		}
		out.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	return out, nil
}
