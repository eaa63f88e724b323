// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/fairlead/fairlead/controlplane/cloud"
	"github.com/fairlead/fairlead/controlplane/controllers"
	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/server"
	"github.com/fairlead/fairlead/dataplane/dns"
)

// controllersLease is the Lease of which one process runs the controllers; the name is Kubernetes', whose default roles know it.
const controllersLease = "kube-controller-manager"

// controllerSettings are the cluster-wide values, with the cluster's authority from caFile and its key beside it.
func controllerSettings(cfg server.Config, caFile string) (controller.Settings, error) {
	var none controller.Settings
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return none, err
	}
	key, err := os.ReadFile(strings.TrimSuffix(caFile, ".crt") + ".key")
	if err != nil {
		return none, err
	}
	clusterDNS, err := dnsAddresses(cfg.ServiceCIDRs)
	if err != nil {
		return none, err
	}
	return controller.Settings{
		ClusterCIDRs: cfg.ClusterCIDRs, ServiceCIDRs: cfg.ServiceCIDRs, ClusterName: "fairlead", ClusterDomain: cfg.ClusterDomain,
		RootCA: ca, SigningCert: ca, SigningKey: key, ClusterDNS: clusterDNS, DNSPort: dns.Port,
	}, nil
}

// leaderOptions are the flags of leader election.
type leaderOptions struct {
	elect                 bool
	lease, renew, between time.Duration
}

func (o *leaderOptions) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.elect, "leader-elect", true, "work only while holding the Lease, so that several may run")
	f.DurationVar(&o.lease, "leader-elect-lease-duration", 15*time.Second, "how long a dead leader blocks the others")
	f.DurationVar(&o.renew, "leader-elect-renew-deadline", 10*time.Second, "how long a leader that cannot renew the Lease goes on")
	f.DurationVar(&o.between, "leader-elect-retry-period", 2*time.Second, "how often each tries")
}

// identity returns a name for this process that no other has, also on the same host.
func identity() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("identity for leader election: %w", err)
	}
	return host + "_" + string(uuid.NewUUID()), nil
}

func newControllersCommand() *cobra.Command {
	var kubeconfig, caFile string
	var selected, pools []string
	var accounts bool
	var leader leaderOptions
	var cluster server.Config
	cmd := &cobra.Command{
		Use:     "controllers",
		Aliases: []string{"controller-manager"},
		Short:   "Run the controllers alone, against any Kubernetes API server",
		Example: `  fairlead controllers --kubeconfig controller-manager.kubeconfig --ca-cert ca.crt
  fairlead controllers --kubeconfig FILE --controllers='*,-csrsigning'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := cloud.NewPools(pools); err != nil {
				return err
			}
			config, err := restConfig(kubeconfig)
			if err != nil {
				return err
			}
			settings, err := controllerSettings(cluster, caFile)
			if err != nil {
				return fmt.Errorf("the cluster's authority (--ca-cert, with its key beside it as .key): %w", err)
			}
			settings.LoadBalancerPools = pools
			cfg := controllers.Config{RESTConfig: config, Controllers: selected, Settings: settings}
			if accounts {
				if cfg.Account, err = controllers.Accounts(config); err != nil {
					return err
				}
			}
			if leader.elect {
				name, err := identity()
				if err != nil {
					return err
				}
				cfg.LeaderElection = &controllers.LeaderElection{
					Name: controllersLease, Identity: name, LeaseDuration: leader.lease, RenewDeadline: leader.renew, RetryPeriod: leader.between,
				}
			}
			return controllers.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file (default: KUBECONFIG, ~/.kube/config, this host's server)")
	f.StringVar(&caFile, "ca-cert", "/var/lib/fairlead/server/pki/ca.crt", "the cluster's CA certificate, with its key beside it as .key: certificates are signed with it")
	f.StringSliceVar(&selected, "controllers", nil, `controllers to run: "*" all, NAME one, -NAME not that one`)
	f.BoolVar(&accounts, "use-service-account-credentials", true,
		"each controller acts as its service account in kube-system; false: all as the kubeconfig's user, whose rights must then suffice")
	f.StringSliceVar(&cluster.ClusterCIDRs, "cluster-cidr", []string{"10.244.0.0/16", "fd00:10:244::/56"}, "addresses of pods, as the server has them")
	f.StringSliceVar(&cluster.ServiceCIDRs, "service-cidr", []string{"10.96.0.0/16", "fd00:10:96::/112"}, "addresses of Services, as the server has them")
	f.StringVar(&cluster.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	f.StringSliceVar(&pools, "load-balancer-pool", nil, "CIDRs from which Services of type LoadBalancer get addresses")
	leader.register(cmd)
	return cmd
}
