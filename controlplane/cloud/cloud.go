// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/controllers/service"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

// provider is the cloud: a balancer and nothing else.
type provider struct {
	cloudprovider.Interface // nil: the service controller asks only for what is overridden here
	balancer                *Balancer
}

func (p provider) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return p.balancer, true }
func (p provider) ProviderName() string                             { return "fairlead" }
func (p provider) HasClusterID() bool                               { return true }

// New returns the controller that gives Services of type LoadBalancer, without a loadBalancerClass, their addresses. Without pools such
// Services stay pending and an event says why. Pools that are no CIDRs are an error of Run; check them with NewPools before.
func New(c *controller.Context) controller.Controller {
	c = c.As("service-controller", "service-controller")
	pools, err := NewPools(c.Settings.LoadBalancerPools)
	if err != nil {
		return failed{err}
	}
	services := c.Informers.Core().V1().Services()
	p := provider{balancer: &Balancer{pools: pools, services: services.Lister()}}
	lib, err := service.New(p, c.Client, services, c.Informers.Core().V1().Nodes(), c.Settings.ClusterName, utilfeature.DefaultFeatureGate)
	if err != nil {
		return failed{err}
	}
	return runner{lib, max(c.Settings.Workers, 1)}
}

type failed struct{ err error }

func (f failed) Run(context.Context) error { return f.err }

type runner struct {
	lib     *service.Controller
	workers int
}

func (r runner) Run(ctx context.Context) error {
	r.lib.Run(ctx, r.workers, controllersmetrics.NewControllerManagerMetrics("fairlead"))
	return nil
}

// sortByAge puts the oldest service first, and orders those of the same second by name.
func sortByAge(services []*corev1.Service) {
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(owner(a), owner(b)))
	})
}
