// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
)

// adminKubeconfig is where a server of this host writes its administrator's credentials.
const adminKubeconfig = "/var/lib/fairlead/server/pki/admin.kubeconfig"

// newKubectlCommand is kubectl as it is. Where the user has no kubeconfig of their own, it uses the one of this host's server.
func newKubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl",
		Short:              "Control the cluster with kubectl",
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			useAdminKubeconfig()
			streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
			kubectl := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
				PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
				Arguments:     append([]string{"kubectl"}, args...),
				ConfigFlags:   genericclioptions.NewConfigFlags(true).WithDiscoveryBurst(300).WithDiscoveryQPS(50),
				IOStreams:     streams,
			})
			kubectl.SetArgs(args)
			return kubectl.ExecuteContext(c.Context())
		},
	}
}

func useAdminKubeconfig() {
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "" {
		return
	}
	if _, err := os.Stat(clientcmd.RecommendedHomeFile); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	if _, err := os.Stat(adminKubeconfig); err == nil {
		_ = os.Setenv(clientcmd.RecommendedConfigPathEnvVar, adminKubeconfig)
	}
}
