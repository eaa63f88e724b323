// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"slices"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	etcdkubernetes "go.etcd.io/etcd/client/v3/kubernetes"
	"google.golang.org/grpc/metadata"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// direct reaches an etcd server in this process by function calls: no socket, no HTTP/2, no copy of every message, and one connection less per
// resource. It stands in for the storage that k8s.io/apiserver would open, with the same watch cache in front.
type direct struct {
	client    *clientv3.Client
	compactor etcd3.Compactor
	stop      func()
}

// newDirect returns nil without client: then the store is reached by its endpoints. Close ends compaction.
func newDirect(client *clientv3.Client) *direct {
	if client == nil {
		return nil
	}
	compactor := etcd3.NewCompactor(client, storagebackend.DefaultCompactInterval, clock.RealClock{}, func() {})
	return &direct{client: client, compactor: compactor, stop: sync.OnceFunc(compactor.Stop)}
}

func (d *direct) close() {
	if d != nil {
		d.stop()
	}
}

// options returns o with storage through d.
func (d *direct) options(o generic.RESTOptionsGetter) generic.RESTOptionsGetter {
	if d == nil {
		return o
	}
	return directOptions{RESTOptionsGetter: o, direct: d}
}

type directOptions struct {
	generic.RESTOptionsGetter
	direct *direct
}

func (o directOptions) GetRESTOptions(gr schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := o.RESTOptionsGetter.GetRESTOptions(gr, example)
	switch {
	case err != nil:
	case slices.Contains(uncached, gr):
		options.Decorator = o.direct.bare
	default:
		options.Decorator = o.direct.cached
	}
	return options, err
}

// bare is a generic.StorageDecorator without a watch cache.
func (d *direct) bare(cfg *storagebackend.ConfigForResource, resourcePrefix string, _ func(runtime.Object) (string, error), newFunc, newListFunc func() runtime.Object,
	_ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
	return d.raw(cfg, newFunc, newListFunc, resourcePrefix)
}

// cached is a generic.StorageDecorator with one.
func (d *direct) cached(cfg *storagebackend.ConfigForResource, resourcePrefix string, key func(runtime.Object) (string, error), newFunc, newListFunc func() runtime.Object,
	attributes storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
	raw, closeRaw, err := d.raw(cfg, newFunc, newListFunc, resourcePrefix)
	if err != nil {
		return nil, nil, err
	}
	c, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage: raw, Versioner: storage.APIObjectVersioner{}, GroupResource: cfg.GroupResource, EventsHistoryWindow: cfg.EventsHistoryWindow,
		ResourcePrefix: resourcePrefix, KeyFunc: key, NewFunc: newFunc, NewListFunc: newListFunc, GetAttrsFunc: attributes,
		IndexerFuncs: triggers, Indexers: indexers, Codec: cfg.Codec,
	})
	if err != nil {
		closeRaw()
		return nil, nil, err
	}
	delegator := cacher.NewCacheDelegator(c, raw)
	return delegator, sync.OnceFunc(func() {
		delegator.Stop()
		c.Stop()
		closeRaw()
	}), nil
}

func (d *direct) raw(cfg *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, resourcePrefix string) (storage.Interface, func(), error) {
	own := clientv3.NewCtxClient(d.client.Ctx()) // a second view of the one connection
	own.Cluster, own.Lease, own.Auth, own.Maintenance = d.client.Cluster, d.client.Lease, d.client.Auth, d.client.Maintenance
	own.KV = etcd3.NewETCDLatencyTracker(d.client.KV)
	own.Watcher = ownStream{Watcher: d.client.Watcher, resource: cfg.GroupResource.String()}
	client := &etcdkubernetes.Client{Client: own}
	client.Kubernetes = client
	transformer := cfg.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := storage.APIObjectVersioner{}
	s, err := etcd3.New(client, d.compactor, cfg.Codec, newFunc, newListFunc, cfg.Prefix, resourcePrefix, cfg.GroupResource, transformer,
		cfg.LeaseManagerConfig, etcd3.NewDefaultDecoder(cfg.Codec, versioner), versioner)
	if err != nil {
		return nil, nil, err
	}
	return s, sync.OnceFunc(s.Close), nil
}

// ownStream gives a resource a watch stream of its own: etcd answers a progress request on all watches of a stream, and a consistent read of one
// resource need not wake the watch caches of all others. The client keys streams by the context's outgoing metadata.
type ownStream struct {
	clientv3.Watcher
	resource string
}

func (w ownStream) mark(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "fairlead-resource", w.resource)
}

func (w ownStream) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	return w.Watcher.Watch(w.mark(ctx), key, opts...)
}

func (w ownStream) RequestProgress(ctx context.Context) error {
	return w.Watcher.RequestProgress(w.mark(ctx))
}

// Close does nothing: the stream belongs to the shared client.
func (w ownStream) Close() error { return nil }
