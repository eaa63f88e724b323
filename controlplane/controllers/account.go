// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/controller-manager/pkg/clientbuilder"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// manager is the name under which controllers own fields and hold their Lease: Kubernetes', which tools look for in managedFields.
const manager = "kube-controller-manager"

// userAgent names who in this process asks.
func userAgent(who string) string {
	return fmt.Sprintf("%s/fairlead (%s/%s) %s", manager, runtime.GOOS, runtime.GOARCH, who)
}

// Accounts returns Config.Account for a process of its own: service accounts in kube-system, made when they lack, with tokens that config may request for them.
func Accounts(config *rest.Config) (func(account string) (*rest.Config, error), error) {
	client, err := kubernetes.NewForConfig(withDefaults(config))
	if err != nil {
		return nil, err
	}
	return clientbuilder.NewDynamicClientBuilder(rest.AnonymousClientConfig(config), client.CoreV1(), metav1.NamespaceSystem).Config, nil
}

func withDefaults(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	if config.QPS == 0 {
		config.QPS = -1
	}
	config.UserAgent = userAgent("controllers")
	return config
}

// clients are the ways in which one identity talks to the API server.
type clients struct {
	typed    kubernetes.Interface
	dynamic  dynamic.Interface
	metadata metadata.Interface
}

func newClients(config *rest.Config) (c clients, err error) {
	typed := rest.CopyConfig(config) // built-in types travel as protobuf, custom ones cannot
	typed.ContentType, typed.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	if c.typed, err = kubernetes.NewForConfig(typed); err != nil {
		return c, fmt.Errorf("client: %w", err)
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return c, fmt.Errorf("dynamic client: %w", err)
	}
	if c.metadata, err = metadata.NewForConfig(config); err != nil {
		return c, fmt.Errorf("metadata client: %w", err)
	}
	return c, nil
}

// accounts gives each controller of a term the clients of its own account. Several controllers may share one.
type accounts struct {
	config      func(account string) (*rest.Config, error)
	broadcaster record.EventBroadcaster
	sinks       *sinks
	known       map[string]known
	failed      error // why accounts have no clients
}

type known struct {
	config  *rest.Config
	clients clients
}

// identify is controller.Context.Identify. It is called while controllers are constructed, by one goroutine.
func (a *accounts) identify(c *controller.Context, account, source string) {
	c.Events = a.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: source})
	if a.config == nil {
		return
	}
	own, is := a.known[account]
	if !is {
		var err error
		if own, err = a.open(account); err != nil {
			a.failed = errors.Join(a.failed, fmt.Errorf("service account %s/%s: %w", metav1.NamespaceSystem, account, err))
			return
		}
		a.known[account] = own
	}
	c.RESTConfig, c.Client, c.Dynamic, c.Metadata = own.config, own.clients.typed, own.clients.dynamic, own.clients.metadata
	a.sinks.add(source, c.Client)
}

func (a *accounts) open(account string) (known, error) {
	config, err := a.config(account)
	if err != nil {
		return known{}, err
	}
	config = withDefaults(config)
	config.UserAgent = userAgent(serviceaccount.MakeUsername(metav1.NamespaceSystem, account))
	c, err := newClients(config)
	return known{config, c}, err
}

// sinks writes each event as the account of its source.
type sinks struct {
	mu     sync.RWMutex
	others record.EventSink
	known  map[string]record.EventSink
}

func newSinks(others kubernetes.Interface) *sinks {
	return &sinks{others: sink(others), known: map[string]record.EventSink{}}
}

func sink(client kubernetes.Interface) record.EventSink {
	return &typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events(metav1.NamespaceAll)}
}

func (s *sinks) add(source string, client kubernetes.Interface) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[source] = sink(client)
}

func (s *sinks) of(e *corev1.Event) record.EventSink {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if own, ok := s.known[e.Source.Component]; ok {
		return own
	}
	return s.others
}

func (s *sinks) Create(e *corev1.Event) (*corev1.Event, error) { return s.of(e).Create(e) }

func (s *sinks) Update(e *corev1.Event) (*corev1.Event, error) { return s.of(e).Update(e) }

func (s *sinks) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.of(e).Patch(e, data)
}
