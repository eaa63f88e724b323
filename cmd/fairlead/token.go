// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/fairlead/fairlead/controlplane/auth/discovery"
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
  fairlead token create --print-join-command
  fairlead token create --server --ttl 1h --print-join-command`,
	}
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file (default: KUBECONFIG, ~/.kube/config, this host's server)")

	var b tokens.Bootstrap
	var ttl time.Duration
	var forServer, printCommand bool
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
			if forServer {
				b.Usages, b.Groups = []string{"authentication"}, []string{tokens.ServerGroup}
			}
			made, err := tokens.CreateBootstrap(cmd.Context(), client, b)
			if err != nil {
				return err
			}
			if printCommand {
				return printJoinCommand(cmd, client, made, forServer)
			}
			fmt.Fprintln(cmd.OutOrStdout(), made)
			return nil
		},
	}
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token is good for; 0 means forever")
	create.Flags().StringVar(&b.Description, "description", "", "a note for people")
	create.Flags().BoolVar(&forServer, "server", false, "make a token for further servers: it gives access to the cluster's keys, so keep --ttl short")
	create.Flags().BoolVar(&printCommand, "print-join-command", false, "print the command by which a host joins, instead of the token alone")

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

// printJoinCommand prints what to run on a host that joins, with the address and the authority that cluster-info names.
func printJoinCommand(cmd *cobra.Command, client kubernetes.Interface, token tokens.Bootstrap, forServer bool) error {
	info, err := client.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(cmd.Context(), bootstrapapi.ConfigMapClusterInfo, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("the token %s was made; where the cluster is cannot be said: %w", token.ID, err)
	}
	config, err := clientcmd.Load([]byte(info.Data[bootstrapapi.KubeConfigKey]))
	if err == nil && config.Clusters[""] == nil {
		err = errors.New("it names no cluster")
	}
	if err != nil {
		return fmt.Errorf("the token %s was made; kube-public/cluster-info cannot be used: %w", token.ID, err)
	}
	cluster := config.Clusters[""]
	hash, err := discovery.HashPEM(cluster.CertificateAuthorityData)
	if err != nil {
		return fmt.Errorf("the authority in kube-public/cluster-info: %w", err)
	}
	role := "agent"
	if forServer {
		role = "server"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "fairlead %s --server %s --token %s --ca-hash %s\n", role, cluster.Server, token, hash)
	return err
}
