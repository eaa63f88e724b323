// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead/fairlead/controlplane/auth/tokens"
)

// restConfig loads the user's kubeconfig, or this host's server's.
func restConfig(path string) (*rest.Config, error) {
	if path == "" {
		useAdminKubeconfig()
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no cluster to talk to: %w; give --kubeconfig or run it on a server's host", err)
	}
	return cfg, nil
}

func clientset(kubeconfig string) (kubernetes.Interface, error) {
	cfg, err := restConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

func newTokenCommand() *cobra.Command {
	var kubeconfig string
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Create, list and delete the tokens by which nodes join",
		Example: `  fairlead token create --ttl 1h --description "rack 7" > token
  fairlead agent --server https://10.0.0.1:6443 --ca-cert ca.crt --token-file token`,
	}
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file (default: KUBECONFIG, ~/.kube/config, this host's server)")

	var b tokens.Bootstrap
	var ttl time.Duration
	create := &cobra.Command{
		Use:   "create",
		Short: "Create a token and print it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := clientset(kubeconfig)
			if err != nil {
				return err
			}
			if ttl < 0 {
				return fmt.Errorf("--ttl %s: want 0 (forever) or more", ttl)
			}
			if ttl > 0 {
				b.Expires = time.Now().Add(ttl)
			}
			made, err := tokens.CreateBootstrap(cmd.Context(), client, b)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), made)
			return nil
		},
	}
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token is good for; 0 means forever")
	create.Flags().StringVar(&b.Description, "description", "", "a note for people")

	list := &cobra.Command{
		Use:   "list",
		Short: "List the tokens, without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := clientset(kubeconfig)
			if err != nil {
				return err
			}
			all, err := tokens.ListBootstrap(cmd.Context(), client)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "ID\tEXPIRES\tUSAGES\tDESCRIPTION")
			for _, t := range all {
				expires := "never"
				if !t.Expires.IsZero() {
					expires = t.Expires.Format(time.RFC3339)
				}
				fmt.Fprintf(w, "%s\t%s\t%v\t%s\n", t.ID, expires, t.Usages, t.Description)
			}
			return w.Flush()
		},
	}
	remove := &cobra.Command{
		Use:   "delete TOKEN",
		Short: "Delete a token, given whole or by its id",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := clientset(kubeconfig)
			if err != nil {
				return err
			}
			return tokens.DeleteBootstrap(cmd.Context(), client, args[0])
		},
	}
	cmd.AddCommand(create, list, remove)
	return cmd
}
