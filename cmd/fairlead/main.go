// SPDX-License-Identifier: Apache-2.0

// Command fairlead is the whole cluster in one executable: server, agent, the dataplane alone, each component alone, kubectl, and the sandbox.
// It is also the containerd daemon and runc shim that a node runs, told apart by the name it is started under.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/cni/install"
	"github.com/fairlead/fairlead/hack/sandbox"
)

func main() {
	runMultiCall(os.Args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	cmd := newRootCommand()
	if err := cmd.ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "fairlead:", err)
		os.Exit(exitCode(err))
	}
}

func exitCode(err error) int {
	var status sandbox.ExitError
	if errors.As(err, &status) {
		return int(status)
	}
	return 1
}

func newRootCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fairlead",
		Short: "A Kubernetes cluster in one binary, with eBPF networking from the first packet",
		Long: `Fairlead is a Kubernetes-conformant container orchestrator whose node networking is eBPF: no kube-proxy, no iptables, no nftables.

  fairlead server                      a whole cluster on this host
  fairlead agent --server URL          join this host to a cluster as a node
  fairlead sandbox up                  try a three-node cluster on this machine`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	addLogFlags(cmd.PersistentFlags())
	cmd.AddCommand(
		withConfigFile(newServerCommand()),
		withConfigFile(newAgentCommand()),
		withConfigFile(newDataplaneCommand()),
		newAPIServerCommand(),
		newControllersCommand(),
		newSchedulerCommand(),
		newDNSCommand(),
		install.NewCommand(os.Stdout),
		newKubectlCommand(),
		newTokenCommand(),
		newEtcdCommand(),
		newImageCommand(),
		newSandboxCommand(),
		newVersionCommand(),
	)
	return cmd
}

// addLogFlags adds the log's verbosity (-v) to flags; the rest of klog's own flags is of no use to a service.
func addLogFlags(flags *pflag.FlagSet) {
	all := flag.NewFlagSet("log", flag.ContinueOnError)
	klog.InitFlags(all)
	for _, name := range []string{"v", "vmodule"} {
		flags.AddGoFlag(all.Lookup(name))
	}
}

// require makes flags of cmd mandatory. A flag that cmd does not have is a programming error.
func require(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
}
