// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fairlead/fairlead/hack/load"
	"github.com/fairlead/fairlead/hack/sandbox"
	"github.com/fairlead/fairlead/hack/vm/guest"
)

// sandboxFlags are shared by all verbs of `fairlead sandbox`.
type sandboxFlags struct{ dir, name string }

func (f sandboxFlags) open() (*sandbox.Sandbox, error) { return sandbox.Open(f.dir, f.name) }

func newSandboxCommand() *cobra.Command {
	var f sandboxFlags
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run a real multi-node cluster on this machine, for trying and testing",
		Example: `  fairlead sandbox up --nodes 3 --dual
  export KUBECONFIG=/var/lib/fairlead-sandbox/dev/kubeconfig
  fairlead sandbox node kill agent-1
  fairlead sandbox shell server-1 -- flctl lb list
  fairlead sandbox down`,
	}
	cmd.PersistentFlags().StringVar(&f.dir, "dir", sandbox.DefaultDir, "where sandboxes are kept")
	cmd.PersistentFlags().StringVar(&f.name, "name", "dev", "name of the sandbox")
	cmd.AddCommand(sandboxUp(&f), sandboxDown(&f), sandboxInit(), sandboxGuest())
	for _, c := range []*cobra.Command{sandboxStatus(&f), sandboxNode(&f), sandboxLoad(&f), sandboxShell(&f), sandboxSample(&f)} {
		inMachine(&f, c)
		cmd.AddCommand(c)
	}
	return cmd
}

// inMachine has cmd and the commands below it run inside the sandbox's virtual machine when it has one.
func inMachine(f *sandboxFlags, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		inMachine(f, c)
	}
	here := cmd.RunE
	if here == nil {
		return
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := f.open()
		if err != nil {
			return err
		}
		machine, there, err := s.Machine()
		if err != nil {
			return err
		}
		if !there {
			return here(cmd, args)
		}
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		return machine.Run(cmd.Context(), append([]string{exe}, os.Args[1:]...), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
}

func sandboxUp(f *sandboxFlags) *cobra.Command {
	o := sandbox.UpOptions{}
	var nodes int
	var v6, dual bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the sandbox and wait until its nodes are Ready",
		Example: `  fairlead sandbox up
  fairlead sandbox up --nodes 5 --servers 3 --dual
  fairlead sandbox --name other up --nodes 1 --api-port 6543 --image out/images/sample.tar
  fairlead sandbox up --kernel 6.12 --nodes 1
  fairlead sandbox up --kernel /boot/vmlinuz-6.12.9 --kvm`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := f.open()
			if err != nil {
				return err
			}
			if v6 && dual {
				return errors.New("--ipv6 and --dual exclude each other")
			}
			o.Agents = nodes - o.Servers
			o.Families = sandbox.Families{IPv4: !v6, IPv6: v6 || dual}
			o.Out = cmd.OutOrStdout()
			if o.Binary, err = os.Executable(); err != nil {
				return err
			}
			if o.Machine.Kernel != "" {
				o.Machine.Up = upInMachine(cmd, s)
			}
			return s.Up(cmd.Context(), o)
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", 3, "number of nodes, servers included")
	cmd.Flags().IntVar(&o.Servers, "servers", 1, "how many of the nodes are servers: 1, 3 or 5")
	cmd.Flags().BoolVar(&v6, "ipv6", false, "IPv6 only")
	cmd.Flags().BoolVar(&dual, "dual", false, "IPv4 and IPv6")
	cmd.Flags().BoolVar(&o.Routed, "overlay", false, "put each node on a link of its own, so that pods reach each other through the VXLAN overlay")
	cmd.Flags().IntVar(&o.APIPort, "api-port", 6443, "port of 127.0.0.1 at which the API is reached, at whichever server lives; of several servers, each is at one of the next ports alone")
	cmd.Flags().StringSliceVar(&o.Images, "image", nil, "image archive that every node imports (repeatable)")
	cmd.Flags().StringArrayVar(&o.ExtraArgs, "node-arg", nil, "further argument for every server and agent (repeatable)")
	cmd.Flags().DurationVar(&o.Timeout, "timeout", 0, "longest wait for the API server, and for the nodes (default 2m, with --kernel 10m)")
	cmd.Flags().StringVar(&o.Machine.Kernel, "kernel", "", "run the sandbox in a virtual machine with this kernel: a file, or 6.1 or 6.12 for Debian's")
	cmd.Flags().BoolVar(&o.Machine.KVM, "kvm", false, "with --kernel: run the machine on KVM, not in emulation, which is slow but works everywhere")
	cmd.Flags().IntVar(&o.Machine.Memory, "memory", 0, "with --kernel: the machine's memory in MiB (default 1536, and 1024 a node)")
	return cmd
}

// upInMachine returns the arguments of cmd, a `sandbox up --kernel`, as they are given inside the machine.
func upInMachine(cmd *cobra.Command, s *sandbox.Sandbox) []string {
	args := []string{"sandbox", "--dir=" + filepath.Dir(s.Dir), "--name=" + s.Name, "up"}
	if !cmd.Flags().Changed("timeout") {
		args = append(args, "--timeout="+emulatedTimeout.String())
	}
	cmd.LocalNonPersistentFlags().VisitAll(func(flag *pflag.Flag) {
		if !flag.Changed || flag.Name == "kernel" || flag.Name == "kvm" || flag.Name == "memory" {
			return
		}
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			for _, v := range list.GetSlice() {
				args = append(args, "--"+flag.Name+"="+v)
			}
			return
		}
		args = append(args, "--"+flag.Name+"="+flag.Value.String())
	})
	return args
}

// emulatedTimeout is how long an emulated machine has for the cluster.
const emulatedTimeout = 10 * time.Minute

func sandboxDown(f *sandboxFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the sandbox and remove everything it made",
		Example: `  fairlead sandbox down
  fairlead sandbox --name other down`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := f.open()
			if err != nil {
				return err
			}
			return s.Down()
		},
	}
}

func sandboxStatus(f *sandboxFlags) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the hosts of the sandbox and what they run",
		Example: `  fairlead sandbox status
  fairlead sandbox status -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := f.open()
			if err != nil {
				return err
			}
			hosts, err := s.HostStatuses()
			if err != nil {
				return err
			}
			switch output {
			case "json":
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(hosts)
			case "":
			default:
				return fmt.Errorf("output %q: want json", output)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "HOST\tROLE\tADDRESSES\tSTATE\tSINCE\tSTARTS")
			for _, h := range hosts {
				state, since := "-", "-"
				switch {
				case h.Status.Running:
					state, since = "running", time.Since(h.Status.Since).Round(time.Second).String()
				case h.Status.Last != "":
					state = h.Status.Last
				}
				fmt.Fprintf(w, "%s\t%s\t%v\t%s\t%s\t%d\n", h.Host.Name, h.Host.Role, h.Host.Addrs(), state, since, h.Status.Starts)
			}
			fmt.Fprintf(w, "\nkubeconfig: %s\nlogs: %s\n", s.Kubeconfig(), s.LogFile("NODE"))
			return w.Flush()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output format: json")
	return cmd
}

func sandboxNode(f *sandboxFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Start, stop, kill, restart, crash, partition or heal a node",
		Example: `  fairlead sandbox node kill agent-1
  fairlead sandbox node restart agent-1 --binary ./bin/fairlead`,
	}
	control := func(verb sandbox.Verb, short string) *cobra.Command {
		var binary string
		c := &cobra.Command{
			Use:     string(verb) + " NODE",
			Short:   short,
			Example: "  fairlead sandbox node " + string(verb) + " agent-1",
			Args:    cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				s, err := f.open()
				if err != nil {
					return err
				}
				st, err := s.Control(args[0], verb, binary)
				if err != nil {
					return err
				}
				if st.Running {
					fmt.Fprintf(cmd.OutOrStdout(), "%s runs\n", args[0])
				} else {
					fmt.Fprintf(cmd.OutOrStdout(), "%s does not run (%s)\n", args[0], st.Last)
				}
				return nil
			},
		}
		if verb == sandbox.VerbStart || verb == sandbox.VerbRestart {
			c.Flags().StringVar(&binary, "binary", "", "start this executable instead of the one the node ran before (an upgrade)")
		}
		return c
	}
	link := func(use, short string, up bool) *cobra.Command {
		return &cobra.Command{
			Use:     use + " NODE",
			Short:   short,
			Example: "  fairlead sandbox node " + use + " agent-1",
			Args:    cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				s, err := f.open()
				if err != nil {
					return err
				}
				return s.Partition(args[0], up)
			},
		}
	}
	cmd.AddCommand(
		control(sandbox.VerbStart, "Start the node's fairlead process"),
		control(sandbox.VerbStop, "End the node's fairlead process in order (SIGTERM)"),
		control(sandbox.VerbKill, "Kill the node's fairlead process (SIGKILL); containers go on"),
		control(sandbox.VerbRestart, "Kill the node's fairlead process and start it again"),
		control(sandbox.VerbCrash, "Cut the node's power: all its processes end, its data stays; start boots it again"),
		link("partition", "Cut the node off the network", false),
		link("heal", "Join a partitioned node again", true),
	)
	return cmd
}

func sandboxShell(f *sandboxFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "shell HOST [-- COMMAND...]",
		Short: "Run a shell, or a command, inside a host of the sandbox",
		Example: `  fairlead sandbox shell agent-1
  fairlead sandbox shell server-1 -- flctl lb list`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := f.open()
			if err != nil {
				return err
			}
			command := args[1:]
			if len(command) == 0 {
				command = []string{"/bin/bash"}
			}
			return s.Exec(cmd.Context(), args[0], command, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

func sandboxLoad(f *sandboxFlags) *cobra.Command {
	o := load.Options{}
	var from, output string
	var here, untilEOF bool
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Send a bounded, open-loop HTTP load from a host of the sandbox",
		Example: `  fairlead sandbox load --url http://10.112.0.1/ --rate 500 --duration 10s
  fairlead sandbox load --from agent-1 --url http://10.96.12.34/ --rate 500 --reuse
  fairlead sandbox load --url http://10.112.0.1/ -o hdr > latencies.hgrm`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" && output != "hdr" {
				return fmt.Errorf("output %q: want json or hdr", output)
			}
			if !here {
				s, err := f.open()
				if err != nil {
					return err
				}
				exe, err := os.Executable()
				if err != nil {
					return err
				}
				return s.Exec(cmd.Context(), from, append([]string{exe}, append(os.Args[1:], "--here")...), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			ctx := cmd.Context()
			if untilEOF {
				var stop context.CancelFunc
				ctx, stop = context.WithCancel(ctx)
				defer stop()
				go func() {
					_, _ = io.Copy(io.Discard, cmd.InOrStdin()) // its end is what counts
					stop()
				}()
			}
			r, err := load.Run(ctx, o)
			if err != nil {
				return err
			}
			switch output {
			case "json":
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			case "hdr":
				return r.PrintDistribution(cmd.OutOrStdout())
			}
			r.Print(cmd.OutOrStdout())
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "client", "host to send from")
	cmd.Flags().StringVar(&o.URL, "url", "", "what to request")
	cmd.Flags().Float64Var(&o.Rate, "rate", 100, "requests per second")
	cmd.Flags().DurationVar(&o.Duration, "duration", 10*time.Second, "how long to start requests")
	cmd.Flags().DurationVar(&o.Timeout, "timeout", 5*time.Second, "time limit of one request")
	cmd.Flags().BoolVar(&o.Reuse, "reuse", false, "keep connections open between requests")
	cmd.Flags().StringVarP(&output, "output", "o", "", "output format: json, or hdr for the distribution of latencies as HdrHistogram's plotters read it")
	cmd.Flags().BoolVar(&untilEOF, "until-eof", false, "end the load early when standard input ends")
	cmd.Flags().BoolVar(&here, "here", false, "")
	cmd.Flags().Lookup("here").Hidden = true
	require(cmd, "url")
	return cmd
}

func sandboxSample(f *sandboxFlags) *cobra.Command {
	var manifest string
	cmd := &cobra.Command{
		Use:   "sample",
		Short: "Deploy the sample application and send it requests by every way into it",
		Example: `  fairlead sandbox sample
  fairlead sandbox sample -f my-copy.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := f.open()
			if err != nil {
				return err
			}
			return s.Sample(cmd.Context(), manifest, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&manifest, "filename", "f", "hack/sample/sample.yaml", "manifest of the sample")
	return cmd
}

func sandboxInit() *cobra.Command {
	return &cobra.Command{
		Use:    "init CONFIG",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return sandbox.RunInit(args[0]) },
	}
}

func sandboxGuest() *cobra.Command {
	return &cobra.Command{
		Use:    "guest",
		Short:  "PID 1 of the virtual machine of a sandbox",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return guest.Stay() },
	}
}
