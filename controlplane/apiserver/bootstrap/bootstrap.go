// SPDX-License-Identifier: Apache-2.0

// Package bootstrap keeps the objects in place that a cluster cannot be without: the system namespaces, the Service default/kubernetes with the
// addresses of the living API servers, and the configuration of priority and fairness. Everything is created when it is missing and repaired
// when it was changed; it is written through the server's own API.
package bootstrap

import (
	"context"
	"errors"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
)

// Config is what the objects are made from.
type Config struct {
	Client kubernetes.Interface
	// Advertise and Port are where nodes and pods reach this server.
	Advertise func() []net.IP
	Port      int
	// ServiceCIDRs are the ClusterIP ranges; the first address of the first is that of the Service kubernetes.
	ServiceCIDRs []string
	// ClientCA and RequestHeader are published for aggregated API servers; nil means not.
	ClientCA      dynamiccertificates.CAContentProvider
	RequestHeader *authenticatorfactory.RequestHeaderConfig
	// More are further steps by name; they are done once.
	More map[string]func(context.Context) error
	// Identity names this server among the API servers of the cluster.
	Identity string

	sightings *sightings
}

const (
	// repairEvery is how often everything is compared with what it should be.
	repairEvery = 10 * time.Second
	// retryEvery is how soon a failed first attempt is repeated.
	retryEvery = 100 * time.Millisecond
	// complainAfter is how long a failing first attempt is nothing unusual: the steps wait for each other's objects.
	complainAfter = 3 * time.Second
)

// Install makes server keep the objects in place while it runs. /readyz waits for the first success.
func Install(server *genericapiserver.GenericAPIServer, cfg Config) error {
	if cfg.Identity == "" {
		cfg.Identity = server.APIServerID
	}
	cfg.sightings = &sightings{seen: map[string]sighting{}}
	type step struct {
		name   string
		run    func(context.Context) error
		repair time.Duration // how often it is repeated; 0 never
	}
	steps := []step{
		{"start-system-namespaces-controller", cfg.namespaces, repairEvery},
		{"priority-and-fairness-config-producer", cfg.flowControl, repairEvery},
		{"start-kubernetes-service", cfg.kubernetesService, renewEvery},
		{"start-kubernetes-service-cidr-controller", cfg.serviceCIDR, repairEvery},
		{"start-cluster-authentication-info-controller", cfg.authenticationInfo, repairEvery},
	}
	for name, run := range cfg.More {
		steps = append(steps, step{name, run, 0})
	}
	for _, s := range steps {
		err := server.AddPostStartHook(s.name, func(hook genericapiserver.PostStartHookContext) error {
			log := klog.FromContext(hook)
			complain := time.Now().Add(complainAfter)
			for {
				err := s.run(hook)
				if err == nil {
					break
				}
				if time.Now().After(complain) && hook.Err() == nil {
					log.Error(err, "Not ready: a system object cannot be put in place", "step", s.name)
					complain = time.Now().Add(repairEvery)
				}
				if !wait(hook, retryEvery) {
					return nil
				}
			}
			if s.repair == 0 {
				return nil
			}
			go func() {
				for wait(hook, s.repair) {
					if err := s.run(hook); err != nil && hook.Err() == nil {
						log.Error(err, "Cannot repair a system object", "step", s.name)
					}
				}
			}()
			return nil
		})
		if err != nil {
			return err
		}
	}
	return server.AddPreShutdownHook("leave-kubernetes-service", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return cfg.leave(ctx)
	})
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// namespaces creates the four system namespaces.
func (c Config) namespaces(ctx context.Context) error {
	var errs []error
	for _, name := range []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, metav1.NamespaceDefault} {
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
