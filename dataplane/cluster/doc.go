// SPDX-License-Identifier: Apache-2.0

// Package cluster is the one place of a node's dataplane that watches the Kubernetes API.
//
//	Services, EndpointSlices, Nodes --list and watch--> convert --> rows in dataplane/tables
//
// It writes rows and nothing else: no callback of it touches the kernel. A list replaces a table's whole content in one transaction, so that a missed event is made
// good at the latest with the next list; after the first one the table counts as initialized.
//
// WatchConfigMap beside it follows one value of one ConfigMap, for the DNS server's Corefile.
//
// It works with any Kubernetes API server and a client whose user may list and watch those three resources.
package cluster

import (
	"context"
	"errors"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// Filler is the name to make the tables with: tables.New(cluster.Filler).
const Filler = "cluster"

// Config is what Run needs.
type Config struct {
	// Client reaches the API server; required.
	Client kubernetes.Interface
	// Tables are filled; made by tables.New(cluster.Filler); required.
	Tables *tables.Tables
}

// Run keeps the tables equal to the API until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Client == nil || cfg.Tables == nil {
		return errors.New("cluster watch: Client and Tables are required")
	}
	t, c := cfg.Tables, cfg.Client
	var wg sync.WaitGroup
	run := func(store cache.ReflectorStore, name string, expected runtime.Object, lw *cache.ListWatch) {
		r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, c), expected, store, cache.ReflectorOptions{Name: name})
		wg.Go(func() { r.RunWithContext(ctx) })
	}
	run(&store[*corev1.Service, *tables.Service]{tables: t, table: t.Services, name: "services", convert: Service, key: tables.ServiceByName.Query, nameOf: serviceName},
		"services", &corev1.Service{}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return c.CoreV1().Services("").List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return c.CoreV1().Services("").Watch(ctx, o)
			},
		})
	run(&store[*discoveryv1.EndpointSlice, *tables.EndpointSlice]{
		tables: t, table: t.EndpointSlices, name: "endpointslices", convert: EndpointSlice, key: tables.SliceByName.Query, nameOf: sliceName,
	}, "endpointslices", &discoveryv1.EndpointSlice{}, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return c.DiscoveryV1().EndpointSlices("").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.DiscoveryV1().EndpointSlices("").Watch(ctx, o)
		},
	})
	run(&store[*corev1.Node, *tables.Node]{
		tables: t, table: t.Nodes, name: "nodes", convert: Node,
		key: func(n tables.Name) nodeQuery { return tables.NodeByName.Query(n.Name) }, nameOf: func(n *tables.Node) tables.Name { return tables.Name{Name: n.Name} },
	}, "nodes", &corev1.Node{}, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return c.CoreV1().Nodes().List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.CoreV1().Nodes().Watch(ctx, o)
		},
	})
	wg.Wait()
	return nil
}
