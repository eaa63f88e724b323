// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
)

// Port is where a node's server listens, on the node's own addresses; the cluster DNS Service maps port 53 to it.
const Port = 10053

// MetricsPort is where a node's server gives CoreDNS's metrics, as CoreDNS deployments do.
const MetricsPort = 9153

// The ConfigMap with the cluster's Corefile. It has a name of its own, not CoreDNS's "coredns": that one's listens on port 53 with the plugin kubernetes, and must
// stay as it is on a cluster that runs, or goes back to, a CoreDNS deployment.
const (
	ConfigMapNamespace = "kube-system"
	ConfigMapName      = "fairlead-dns"
	ConfigMapKey       = "Corefile"
)

// Config says what a node's DNS server answers and where.
type Config struct {
	Directory *directory.Directory
	Domain    string       // cluster domain, such as cluster.local
	Listen    []netip.Addr // the node's addresses; empty means all
	Port      int          // 0 means Port
	Upstreams []string     // servers for all other names, ADDR or ADDR:PORT; none means that they are refused
	Metrics   string       // ADDR:PORT of CoreDNS's metrics; empty for none
	// Corefile replaces the one made from the fields above when not empty. The words of Words are replaced in it.
	Corefile string
	// Corefiles delivers further Corefiles, "" for the one made from the fields; each is loaded without a question lost, or refused and the former one kept.
	Corefiles <-chan string
	// Socket is the path of a unix socket on which flctl asks (see Control); empty for none.
	Socket string
	// Sockets are UDP sockets that the server reads beside its own, opened with OpenSockets for its addresses; whoever gave them goes on holding them. None: the
	// server opens them itself. Run closes them.
	Sockets []*os.File
	// Service are the cluster DNS Service's addresses: Sockets bound to ServicePort there, opened with OpenServiceSockets, are served, too.
	Service []netip.Addr
	// OnServing is called once the server answers. May be nil.
	OnServing func()
	// ResolvConf is the file with the node's search list; default /etc/resolv.conf.
	ResolvConf string
	// Lameduck is how long questions are still answered after the context's end, while clients learn that this server goes.
	Lameduck time.Duration
}

// Run serves DNS until ctx ends, and for Config.Lameduck after that. One server a process: CoreDNS's configuration is process-wide.
func Run(ctx context.Context, cfg Config) error {
	register()
	source.Store(cfg.Directory)
	caddy.Quiet, dnsserver.Quiet = true, true
	logger := klog.FromContext(ctx)
	var service []netip.AddrPort
	for _, a := range cfg.Service {
		service = append(service, netip.AddrPortFrom(a, ServicePort))
	}
	front, err := newFront(logger, cfg.Sockets, service)
	for _, f := range cfg.Sockets {
		f.Close()
	}
	if err != nil {
		return err
	}
	text := cfg.Corefile
	instance, err := cfg.load(nil, front, text)
	if err != nil && text != "" && cfg.Corefiles != nil { // the cluster's is broken: names inside must go on working
		logger.Error(err, "Corefile refused; using the default one until it changes")
		reloads.WithLabelValues("failed").Inc()
		text = ""
		instance, err = cfg.load(nil, front, text)
	}
	if err != nil && cfg.Metrics != "" { // perhaps the port is taken: names are worth more than metrics
		logger.Error(err, "DNS server does not start; trying without metrics", "metrics", cfg.Metrics)
		cfg.Metrics = ""
		instance, err = cfg.load(nil, front, text)
	}
	if err != nil {
		front.close()
		return fmt.Errorf("start DNS server: %w", err)
	}
	defer func() {
		front.close() // while what it leaves is still answered
		for _, err := range instance.ShutdownCallbacks() {
			logger.Error(err, "DNS server's end")
		}
		if err := instance.Stop(); err != nil {
			logger.Error(err, "Stop DNS server")
		}
	}()
	if cfg.Socket != "" {
		stop, err := serveControl(cfg)
		if err != nil {
			return err
		}
		defer stop()
	}
	logger.Info("DNS server answers", "domain", cfg.Domain, "listen", cfg.Listen, "port", cfg.port(), "upstreams", cfg.Upstreams)
	if cfg.OnServing != nil {
		cfg.OnServing()
	}
	for {
		select {
		case <-ctx.Done():
			if cfg.Lameduck > 0 {
				logger.Info("DNS server ends; still answering for those who do not know yet", "for", cfg.Lameduck)
				time.Sleep(cfg.Lameduck)
			}
			return nil
		case next := <-cfg.Corefiles:
			if next == text {
				continue
			}
			started, err := cfg.load(instance, front, next)
			if err != nil {
				reloads.WithLabelValues("failed").Inc()
				logger.Error(err, "Corefile refused; the former one stays")
				continue
			}
			instance, text = started, next
			reloads.WithLabelValues("loaded").Inc()
			logger.Info("Corefile loaded", "default", text == "")
		}
	}
}

// load starts CoreDNS with a Corefile, in place of running when that is not nil.
func (cfg Config) load(running *caddy.Instance, front *front, text string) (*caddy.Instance, error) {
	input := cfg.input(text)
	p, err := planOf(string(input.Body()))
	if err != nil {
		return nil, err
	}
	if front.held && p.blocks == 0 {
		return nil, fmt.Errorf("no server block of the Corefile uses the plugin %s, so nobody would answer for the cluster", directive)
	}
	loading.Store(&load{front, p})
	defer loading.Store(nil)
	var instance *caddy.Instance
	if running == nil {
		instance, err = caddy.Start(input)
	} else {
		instance, err = running.Restart(input)
	}
	if err != nil {
		return nil, err
	}
	var listening []net.Addr
	for _, s := range instance.Servers() {
		listening = append(listening, s.LocalAddr())
	}
	front.keep(listening)
	return instance, nil
}

func (cfg Config) input(text string) caddy.Input {
	if text == "" {
		text = cfg.corefile()
	}
	return caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(cfg.Words().Replace(text)), ServerTypeName: "dns"}
}

// Words replaces in a Corefile of the cluster what differs from node to node: {{PORT}}, {{BIND}} (the node's addresses), {{DOMAIN}}, {{UPSTREAMS}}
// (none configured: 127.0.0.1:9, where nobody answers, so that `forward . {{UPSTREAMS}}` stays well formed) and {{RESOLV_CONF}}.
func (cfg Config) Words() *strings.Replacer {
	bind := make([]string, len(cfg.Listen))
	for i, a := range cfg.Listen {
		bind[i] = a.String()
	}
	if len(bind) == 0 {
		bind = []string{"0.0.0.0", "::"}
	}
	upstreams := make([]string, len(cfg.Upstreams))
	for i, u := range cfg.Upstreams {
		upstreams[i] = withPort(u)
	}
	if len(upstreams) == 0 {
		upstreams = []string{"127.0.0.1:9"}
	}
	return strings.NewReplacer("{{PORT}}", strconv.Itoa(cfg.port()), "{{BIND}}", strings.Join(bind, " "), "{{DOMAIN}}", strings.TrimSuffix(cfg.Domain, "."),
		"{{UPSTREAMS}}", strings.Join(upstreams, " "), "{{RESOLV_CONF}}", cfg.resolvConf())
}

func (cfg Config) resolvConf() string {
	if cfg.ResolvConf != "" {
		return cfg.ResolvConf
	}
	return "/etc/resolv.conf"
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
	b.WriteString("    errors\n    bufsize 1232\n")
	if cfg.Metrics != "" {
		fmt.Fprintf(&b, "    prometheus %s\n", cfg.Metrics)
	}
	if len(cfg.Upstreams) > 0 {
		fmt.Fprintf(&b, "    %s %s %s\n", searchDirective, strings.TrimSuffix(cfg.Domain, "."), cfg.resolvConf())
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
