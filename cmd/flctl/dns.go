// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/dataplane/dns/control"
)

// dnsCommand asks the node's DNS server, on the wire or on its control socket.
func (env *environment) dnsCommand() *cobra.Command {
	var client control.Client
	var server, from string
	var count int

	query := &cobra.Command{Use: "query NAME [TYPE]", Short: "Ask the node's server on the wire", Args: cobra.RangeArgs(1, 2)}
	query.Flags().StringVar(&server, "server", "", "ADDR:PORT to ask (default: the first of the node's server)")
	query.RunE = func(cmd *cobra.Command, args []string) error {
		if server == "" {
			info, err := client.Info(cmd.Context())
			if err != nil {
				return err
			}
			server = info.Servers[0]
		}
		return env.dnsQuery(cmd.Context(), server, args[0], typeOf(args))
	}

	top := &cobra.Command{Use: "top", Short: "Show the services most asked for", Args: cobra.NoArgs}
	top.Flags().IntVarP(&count, "count", "n", 20, "how many")
	env.watched(top, func(ctx context.Context, _ []string) error {
		list, err := client.Top(ctx, count)
		if err != nil {
			return err
		}
		fmt.Fprintf(env.out, "%-12s %s\n", "QUESTIONS", "SERVICE")
		for _, c := range list {
			fmt.Fprintf(env.out, "%-12d %s/%s\n", c.Questions, c.Namespace, c.Name)
		}
		return nil
	})

	trace := &cobra.Command{Use: "trace NAME [TYPE]", Short: "Say step by step how the node's server finds an answer", Args: cobra.RangeArgs(1, 2)}
	trace.Flags().StringVar(&from, "from", "", "address of the pod that asks")
	trace.RunE = func(cmd *cobra.Command, args []string) error {
		steps, err := client.Trace(cmd.Context(), args[0], typeOf(args), from)
		for _, s := range steps {
			fmt.Fprintln(env.out, s)
		}
		return err
	}

	c := group("dns", "Ask the node's DNS server", query, top, trace)
	c.PersistentFlags().StringVar(&client.Socket, "socket", "/run/fairlead/"+control.SocketName, "the server's control socket")
	return c
}

func typeOf(args []string) string {
	if len(args) > 1 {
		return strings.ToUpper(args[1])
	}
	return "A"
}

func (env *environment) dnsQuery(ctx context.Context, server, name, qtype string) error {
	t, ok := mdns.StringToType[qtype]
	if !ok {
		return fmt.Errorf("no record type %q", qtype)
	}
	m := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), t)
	m.SetEdns0(1232, false)
	c := &mdns.Client{Timeout: 5 * time.Second}
	r, took, err := c.ExchangeContext(ctx, m, server)
	if err == nil && r.Truncated {
		c.Net = "tcp"
		r, took, err = c.ExchangeContext(ctx, m, server)
	}
	if err != nil {
		return fmt.Errorf("ask %s: %w", server, err)
	}
	fmt.Fprintf(env.out, "%s\n;; %s, %d bytes, %s\n", r, server, r.Len(), took.Round(time.Microsecond))
	return nil
}
