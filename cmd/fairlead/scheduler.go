// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/controlplane/scheduler"
)

func newSchedulerCommand() *cobra.Command {
	var kubeconfig string
	cfg := scheduler.Config{}
	cmd := &cobra.Command{
		Use:   "scheduler",
		Short: "Run the scheduler alone, against any Kubernetes API server",
		Example: `  fairlead scheduler --kubeconfig scheduler.kubeconfig --config scheduler.yaml
  fairlead scheduler explain POD -n NAMESPACE`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.RESTConfig, err = restConfig(kubeconfig); err != nil {
				return err
			}
			return scheduler.Run(cmd.Context(), cfg)
		},
	}
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file (default: KUBECONFIG, ~/.kube/config, this host's server)")
	cmd.PersistentFlags().StringVar(&cfg.ConfigFile, "config", "", "KubeSchedulerConfiguration file")
	cmd.Flags().BoolVar(&cfg.LeaderElection, "leader-elect", true, "work only while holding the Lease, so that several may run")

	var namespace, output string
	explain := &cobra.Command{
		Use:   "explain POD",
		Short: "Show what each node says to a pod: who refuses it and why, or its scores",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if cfg.RESTConfig, err = restConfig(kubeconfig); err != nil {
				return err
			}
			x, err := scheduler.Explain(cmd.Context(), cfg, namespace, args[0])
			if err != nil {
				return err
			}
			switch output {
			case "json":
				return json.NewEncoder(cmd.OutOrStdout()).Encode(x)
			case "":
				return x.Print(cmd.OutOrStdout())
			}
			return fmt.Errorf("output %q: want json", output)
		},
	}
	explain.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of the pod")
	explain.Flags().StringVarP(&output, "output", "o", "", "output format: json")
	cmd.AddCommand(explain)
	return cmd
}
