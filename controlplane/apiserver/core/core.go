// SPDX-License-Identifier: Apache-2.0

// Package core holds what the core kinds do beyond being stored: pods are bound, evicted, resized and talked to on their nodes, nodes and
// services are proxied to, namespaces are finalized, service accounts get tokens. It takes the storage that package registry built and
// adds or replaces subresources; it never stores anything by another way.
package core

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"

	"github.com/fairlead/fairlead/controlplane/apis/core/servicealloc"
	"github.com/fairlead/fairlead/controlplane/apiserver/registry"
	"github.com/fairlead/fairlead/controlplane/apiserver/usage"
)

// Config is what the subresources work with.
type Config struct {
	// Client is a client of this server; it works once the server runs.
	Client  kubernetes.Interface
	Kubelet KubeletConfig
	// ServiceAccountToken serves serviceaccounts/token; nil means not served.
	ServiceAccountToken rest.Storage
	// ServiceCIDRs and NodePorts bound what Services are given; ServiceCIDR objects add ranges.
	ServiceCIDRs []string
	NodePorts    string
	MoreCIDRs    networkinglisters.ServiceCIDRLister
	// Options lead to the store, for the claims on node ports.
	Options generic.RESTOptionsGetter
}

// repairEvery is how often claims are compared with Services.
const repairEvery = 3 * time.Minute

// Built are the storages that package registry made, by resource.
type Built map[schema.GroupVersionResource]*registry.Built

// Put adds or replaces a storage.
type Put func(gv schema.GroupVersion, resource string, s rest.Storage)

// Installed is what Install leaves to the server.
type Installed struct {
	// Close ends connections to the store.
	Close func()
	// Repair compares the claims on service addresses and ports with the Services until ctx ends.
	Repair func(ctx context.Context) error
}

// Install adds the subresources of all core kinds.
func Install(put Put, built Built, cfg Config) (*Installed, error) {
	v1 := corev1.SchemeGroupVersion
	get := func(resource string) (*registry.Main, error) {
		b := built[v1.WithResource(resource)]
		if b == nil {
			return nil, fmt.Errorf("core: no declaration of %s", resource)
		}
		return b.Main, nil
	}
	pods, err := get("pods")
	if err != nil {
		return nil, err
	}
	nodes, err := get("nodes")
	if err != nil {
		return nil, err
	}
	services, err := get("services")
	if err != nil {
		return nil, err
	}
	namespaces, err := get("namespaces")
	if err != nil {
		return nil, err
	}
	kubelet, err := newKubelet(cfg.Kubelet, nodes)
	if err != nil {
		return nil, err
	}
	installed, err := allocate(services, cfg)
	if err != nil {
		return nil, err
	}
	installPods(put, pods, kubelet, cfg)
	put(v1, "nodes/proxy", &nodeProxy{kubelet})
	put(v1, "services/proxy", &serviceProxy{services: services, client: cfg.Client, transport: kubelet.plain})
	put(v1, "componentstatuses", &componentStatuses{client: cfg.Client})
	usage.Install(put, nodes, pods, kubelet.summary)
	installNamespaces(put, namespaces)
	if cfg.ServiceAccountToken != nil {
		put(v1, "serviceaccounts/token", cfg.ServiceAccountToken)
	}
	if b := built[certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests")]; b != nil {
		put(certificatesv1.SchemeGroupVersion, "certificatesigningrequests/approval", approval(b.Main))
	}
	return installed, nil
}

// allocate gives Services their addresses and ports.
func allocate(services *registry.Main, cfg Config) (*Installed, error) {
	ports, closeStore, err := servicealloc.StoredPorts(cfg.Options)
	if err != nil {
		return nil, err
	}
	a, err := servicealloc.New(servicealloc.Config{
		CIDRs: cfg.ServiceCIDRs, NodePorts: cfg.NodePorts, Ports: ports, Addresses: cfg.Client.NetworkingV1().IPAddresses(),
		MoreCIDRs: func() ([]*networkingv1.ServiceCIDR, error) { return cfg.MoreCIDRs.List(labels.Everything()) },
	})
	if err != nil {
		closeStore()
		return nil, err
	}
	a.Attach(services.Store)
	repairer := &servicealloc.Repairer{Allocator: a, Services: cfg.Client.CoreV1()}
	return &Installed{Close: closeStore, Repair: func(ctx context.Context) error { return repairer.Run(ctx, repairEvery) }}, nil
}
