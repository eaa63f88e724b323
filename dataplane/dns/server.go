// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/tables"
)

// Port is where a node's server listens, on the node's own addresses; the cluster DNS Service maps port 53 to it.
const Port = 10053

// Config says what a node's DNS server answers and where.
type Config struct {
	Tables    *tables.Tables
	Domain    string       // cluster domain, such as cluster.local
	Listen    []netip.Addr // the node's addresses; empty means all
	Port      int          // 0 means Port
	Upstreams []string     // servers for all other names, ADDR or ADDR:PORT; none means that they are refused
	Metrics   string       // ADDR:PORT of CoreDNS's metrics; empty for none
	// Corefile replaces the one made from the fields above when not empty.
	Corefile string
}

// Run serves DNS until ctx ends. One server a process: CoreDNS's configuration is process-wide.
func Run(ctx context.Context, cfg Config) error {
	register()
	source.Store(cfg.Tables)
	caddy.Quiet, dnsserver.Quiet = true, true
	text := cfg.Corefile
	if text == "" {
		text = cfg.corefile()
	}
	instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(text), ServerTypeName: "dns"})
	if err != nil {
		return fmt.Errorf("start DNS server: %w", err)
	}
	klog.FromContext(ctx).Info("DNS server answers", "domain", cfg.Domain, "listen", cfg.Listen, "port", cfg.port(), "upstreams", cfg.Upstreams)
	<-ctx.Done()
	for _, err := range instance.ShutdownCallbacks() {
		klog.FromContext(ctx).Error(err, "DNS server's end")
	}
	return instance.Stop()
}

func (cfg Config) port() int {
	if cfg.Port != 0 {
		return cfg.Port
	}
	return Port
}

// corefile writes the Corefile of the fields.
func (cfg Config) corefile() string {
	var b strings.Builder
	fmt.Fprintf(&b, ".:%d {\n", cfg.port())
	if len(cfg.Listen) > 0 {
		b.WriteString("    bind")
		for _, a := range cfg.Listen {
			b.WriteString(" " + a.String())
		}
		b.WriteString("\n")
	}
	b.WriteString("    errors\n    cancel 4s\n    bufsize 1232\n")
	if cfg.Metrics != "" {
		fmt.Fprintf(&b, "    prometheus %s\n", cfg.Metrics)
	}
	fmt.Fprintf(&b, "    %s %s in-addr.arpa ip6.arpa {\n        pods insecure\n        ttl %d\n    }\n", directive, strings.TrimSuffix(cfg.Domain, "."), defaultTTL)
	if len(cfg.Upstreams) > 0 {
		b.WriteString("    cache 30 {\n        disable success " + cfg.Domain + "\n        disable denial " + cfg.Domain + "\n    }\n    forward .")
		for _, u := range cfg.Upstreams {
			b.WriteString(" " + withPort(u))
		}
		b.WriteString("\n")
	}
	b.WriteString("    loadbalance\n}\n")
	return b.String()
}

func withPort(server string) string {
	if a, err := netip.ParseAddr(server); err == nil {
		return net.JoinHostPort(a.String(), strconv.Itoa(53))
	}
	return server
}
