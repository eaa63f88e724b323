// SPDX-License-Identifier: Apache-2.0

// Package controller holds what every controller is built from: the Context that main hands to each constructor and the Queue that turns
// informer events into calls of one sync function. A controller package exports
//
//	func New(c *controller.Context) controller.Controller
//
// registers its event handlers in New (before the informers start) and does all its work in Run. It knows neither flags nor other controllers.
package controller

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// Controller is one control loop.
type Controller interface {
	// Run waits for its caches, works until ctx ends, and returns when all its goroutines have ended.
	Run(ctx context.Context) error
}

// Context carries what controllers share: clients, informers, clock, events, and the cluster's settings. Clients, RESTConfig and Events belong to the account that
// As named last; before, to the process.
type Context struct {
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface
	Metadata   metadata.Interface
	Discovery  discovery.DiscoveryInterface
	Mapper     meta.ResettableRESTMapper
	RESTConfig *rest.Config // nil in tests with fake clients

	Reader            kubernetes.Interface // what the informers read with: it may list and watch everything, whatever the account
	Informers         informers.SharedInformerFactory
	MetadataInformers metadatainformer.SharedInformerFactory

	Events   record.EventRecorder
	Clock    clock.WithTicker
	Settings Settings

	// Identify gives a copy of a Context the clients of the service account of that name in kube-system, and events from source. Nil leaves them as they are.
	Identify func(c *Context, account, source string)
}

// As returns c for a controller that acts as the service account of that name in kube-system, so that it has no more rights than its role, and whose events
// come from source. The names are those of Kubernetes' controllers.
func (c *Context) As(account, source string) *Context {
	own := *c
	if c.Identify != nil {
		c.Identify(&own, account, source)
	}
	return &own
}

// Settings are the cluster-wide values that controllers need.
type Settings struct {
	ClusterCIDRs  []string // pod CIDRs, at most one per family
	ServiceCIDRs  []string // service CIDRs, at most one per family
	NodeMaskIPv4  int      // prefix length of a node's IPv4 pod CIDR; 0 means 24
	NodeMaskIPv6  int      // prefix length of a node's IPv6 pod CIDR; 0 means 64
	ClusterName   string
	ClusterDomain string
	RootCA        []byte // PEM bundle published as kube-root-ca.crt

	// SigningCert and SigningKey are the PEM certificate authority with which the CSR signer signs; empty disables the signer.
	SigningCert, SigningKey []byte
	// ClusterDNS are the addresses of the kube-dns Service, at most one per family; empty if the cluster's DNS is somebody else's work.
	// DNSPort is the port of the nodes' own DNS servers.
	ClusterDNS []string
	DNSPort    int32
	// LoadBalancerPools are the CIDRs from which LoadBalancer addresses are handed out.
	LoadBalancerPools []string

	Workers int // concurrent syncs of one controller; 0 means 5
}

// Queue returns a queue named name on the context's clock.
func (c *Context) Queue(name string, sync func(ctx context.Context, key string) error) *Queue {
	return NewQueue(name, c.Clock, sync)
}

// On calls f with every object that inf adds, updates or deletes (a deleted one may be a cache.DeletedFinalStateUnknown, see Object).
func On(inf cache.SharedIndexInformer, f func(obj any)) {
	Watch(inf, func(_, obj any) { f(obj) })
}

// Watch calls f with the old and the new object: old is nil for an added one, both are the same for a deleted one. It panics on a stopped
// informer, which is a programming error: handlers are registered in New.
func Watch(inf cache.SharedIndexInformer, f func(old, obj any)) {
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f(nil, obj) },
		UpdateFunc: func(old, obj any) { f(old, obj) },
		DeleteFunc: func(obj any) { f(obj, obj) },
	})
	if err != nil {
		panic(err)
	}
}

// Object returns the object an event handler was called with as a T: it looks into a cache.DeletedFinalStateUnknown. ok is false for anything else.
func Object[T any](obj any) (t T, ok bool) {
	if tombstone, is := obj.(cache.DeletedFinalStateUnknown); is {
		obj = tombstone.Obj
	}
	t, ok = obj.(T)
	return t, ok
}

// Key is the queue key of obj: namespace/name, or name for a cluster-scoped object.
func Key(obj metav1.Object) string {
	return cache.MetaObjectToName(obj).String()
}

// SplitKey is the reverse of Key. A malformed key, which no caller makes, gives empty strings.
func SplitKey(key string) (namespace, name string) {
	namespace, name, _ = cache.SplitMetaNamespaceKey(key)
	return namespace, name
}

// IgnoreNotFound returns nil for a NotFound error and err otherwise.
func IgnoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Queue runs sync for keys, one call at a time for a key, with rate-limited retries. The zero value is not usable; call NewQueue.
type Queue struct {
	name string
	q    workqueue.TypedRateLimitingInterface[string]
	sync func(ctx context.Context, key string) error
}

// NewQueue returns a queue whose metrics carry name. sync returns an error to have the key retried with back-off.
func NewQueue(name string, clk clock.WithTicker, sync func(ctx context.Context, key string) error) *Queue {
	return &Queue{
		name: name,
		q: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](5*time.Millisecond, 1000*time.Second),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: name, Clock: clk}),
		sync: sync,
	}
}

// Add asks for a sync of key soon. AddAfter asks for one after d.
func (q *Queue) Add(key string)                       { q.q.Add(key) }
func (q *Queue) AddAfter(key string, d time.Duration) { q.q.AddAfter(key, d) }

// AddBackoff asks for a sync after the back-off that failures of key have earned so far, without counting as a failure of sync.
func (q *Queue) AddBackoff(key string) { q.q.AddRateLimited(key) }

// Enqueue adds the namespace/name key of obj, an API object or a cache.DeletedFinalStateUnknown.
func (q *Queue) Enqueue(obj any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		klog.Background().Error(err, "Object without key", "queue", q.name)
		return
	}
	q.q.Add(key)
}

// Len is the number of keys waiting.
func (q *Queue) Len() int { return q.q.Len() }

// Run waits for the caches, then runs workers until ctx ends and all of them have returned.
func (q *Queue) Run(ctx context.Context, workers int, synced ...cache.InformerSynced) error {
	if workers <= 0 {
		workers = 5
	}
	logger := klog.LoggerWithName(klog.FromContext(ctx), q.name)
	ctx = klog.NewContext(ctx, logger)
	if !cache.WaitForNamedCacheSyncWithContext(ctx, synced...) {
		q.q.ShutDown()
		return ctx.Err()
	}
	done := make(chan struct{})
	for range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			for q.next(ctx) {
			}
		}()
	}
	<-ctx.Done()
	q.q.ShutDown()
	for range workers {
		<-done
	}
	return nil
}

// next syncs one key and reports whether the queue goes on.
func (q *Queue) next(ctx context.Context) bool {
	key, shutdown := q.q.Get()
	if shutdown {
		return false
	}
	defer q.q.Done(key)
	if err := q.sync(ctx, key); err != nil {
		switch {
		case ctx.Err() != nil:
		case apierrors.IsConflict(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			// Somebody wrote first, or the namespace is going: the next event or retry settles it.
			klog.FromContext(ctx).V(2).Info("Sync will be retried", "key", key, "reason", err)
		default:
			klog.FromContext(ctx).Error(err, "Sync failed, will retry", "key", key, "retries", q.q.NumRequeues(key))
		}
		q.q.AddRateLimited(key)
		return true
	}
	q.q.Forget(key)
	return true
}
