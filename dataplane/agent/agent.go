// SPDX-License-Identifier: Apache-2.0

// Package agent puts a node together: container runtime, kubelet, network.
//
//	credentials --> containerd (supervised child) --CRI--> kubelet
//	           \--> network (cluster tables, load balancer, pod network, DNS) <--CNI plugin-- containerd
//
// It only starts the parts and hands each what it needs of the others. Killing it disturbs neither containers nor traffic.
package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"

	"github.com/fairlead/fairlead/dataplane/containerd"
	"github.com/fairlead/fairlead/dataplane/kubelet"
	"github.com/fairlead/fairlead/dataplane/network"
)

// Config of a node. The parts' own fields that depend on another part (clients, endpoints) are filled in by Run.
type Config struct {
	Kubelet kubelet.Config
	Network network.Config
	// Containerd is the embedded runtime. With RuntimeEndpoint set (unix:///...) that CRI runtime is used and none is started.
	Containerd      containerd.Config
	RuntimeEndpoint string
	// NoNetwork leaves pods' network, Services and cluster DNS to others, such as a CNI plugin and a service proxy that run as pods.
	NoNetwork bool
	// OnReady is called once the node is registered and its pods are watched. May be nil.
	OnReady func()
}

// criTimeout bounds a call to the runtime.
const criTimeout = 10 * time.Second

// Run runs the node until ctx ends or a part fails.
func Run(ctx context.Context, cfg Config) error {
	ended := ctx // the kubelet may have pods to end then, for which the other parts stay until it is done
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	way, err := kubelet.Credentials(ended, cfg.Kubelet, &running)
	if err != nil {
		return err
	}
	client, err := clientFor(way)
	if err != nil {
		return err
	}
	cfg.Kubelet.REST, cfg.Kubelet.OnReady = way, cfg.OnReady
	cfg.Kubelet.CRIEndpoint = cfg.RuntimeEndpoint
	if cfg.RuntimeEndpoint == "" {
		cfg.Kubelet.CRIEndpoint = cfg.Containerd.Endpoint()
	}
	tell, stop := archiveEvents(ctx, client, cfg.Kubelet.NodeName)
	defer stop()
	cfg.Containerd.OnBroken = tell
	cfg.Network.Client = client
	cfg.Network.Sandboxes = Sandboxes(cfg.Kubelet.CRIEndpoint)

	g, ctx := errgroup.WithContext(ctx)
	runtimeReady := make(chan struct{})
	if cfg.RuntimeEndpoint == "" {
		var once sync.Once
		g.Go(func() error {
			return containerd.Run(ctx, cfg.Containerd, func(context.Context) error { once.Do(func() { close(runtimeReady) }); return nil })
		})
	} else {
		close(runtimeReady)
	}
	if !cfg.NoNetwork {
		g.Go(func() error { return network.Run(ctx, cfg.Network) })
	}
	if cfg.Kubelet.Servers != nil {
		g.Go(func() error { return cfg.Kubelet.Servers.Run(ctx, client) })
	}
	g.Go(func() error {
		defer cancel()
		life, end := context.WithCancelCause(ended)
		defer end(nil)
		defer context.AfterFunc(ctx, func() { end(kubelet.ErrAbandoned) })()
		select {
		case <-life.Done():
			return nil
		case <-runtimeReady:
		}
		return kubelet.Run(life, cfg.Kubelet)
	})
	return g.Wait()
}

// clientFor returns the network's client: built-in kinds as protobuf, without a limit of its own (the server's priority and fairness limits).
func clientFor(way *rest.Config) (kubernetes.Interface, error) {
	c := rest.CopyConfig(way)
	c.QPS = -1
	c.UserAgent = "fairlead-network"
	c.ContentType, c.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return client, nil
}

// Sandboxes returns network.Config.Sandboxes for the CRI runtime at endpoint (unix:///...).
func Sandboxes(endpoint string) func(context.Context) (map[string]bool, error) {
	return func(ctx context.Context) (map[string]bool, error) { return sandboxes(ctx, endpoint) }
}

// sandboxes lists the runtime's pod sandboxes by id, in whatever state.
func sandboxes(ctx context.Context, endpoint string) (map[string]bool, error) {
	runtime, err := cri.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(criTimeout).Build(ctx)
	if err != nil {
		return nil, err
	}
	defer runtime.Close(context.WithoutCancel(ctx))
	list, err := runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{})
	if err != nil {
		return nil, err
	}
	ids := make(map[string]bool, len(list))
	for _, s := range list {
		ids[s.Id] = true
	}
	return ids, nil
}
