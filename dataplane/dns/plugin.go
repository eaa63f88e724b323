// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/upstream"
	"github.com/miekg/dns"

	// The plugins that a Corefile may use besides our own.
	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/auto"
	_ "github.com/coredns/coredns/plugin/autopath"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/cancel"
	_ "github.com/coredns/coredns/plugin/chaos"
	_ "github.com/coredns/coredns/plugin/debug"
	_ "github.com/coredns/coredns/plugin/dns64"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/header"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/local"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/minimal"
	_ "github.com/coredns/coredns/plugin/multisocket"
	_ "github.com/coredns/coredns/plugin/nsid"
	_ "github.com/coredns/coredns/plugin/pprof"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/root"
	_ "github.com/coredns/coredns/plugin/secondary"
	_ "github.com/coredns/coredns/plugin/template"
	_ "github.com/coredns/coredns/plugin/timeouts"
	_ "github.com/coredns/coredns/plugin/tls"
	_ "github.com/coredns/coredns/plugin/transfer"
	_ "github.com/coredns/coredns/plugin/view"
	_ "github.com/coredns/coredns/plugin/whoami"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
)

// directive is our plugin's name in a Corefile.
const directive = "fairlead"

// searchDirective is the name of the plugin that walks search lists.
const searchDirective = "search"

const defaultTTL = 5 // seconds, as CoreDNS's own kubernetes plugin

// source is where the plugin reads when a Corefile is loaded. CoreDNS wires plugins by name through package state, so this must be package state too.
var source atomic.Pointer[directory.Directory]

// loading is what belongs to the Corefile that is being loaded.
var loading atomic.Pointer[load]

type load struct {
	front *front
	plan  plan
}

// asked counts for the process's life, over reloads.
var asked counts

// register makes the directive known, in front of the plugins that ask elsewhere.
var register = sync.OnceFunc(func() {
	plugin.Register(directive, setup)
	at := slices.Index(dnsserver.Directives, "kubernetes")
	dnsserver.Directives = slices.Insert(dnsserver.Directives, at, directive)
	plugin.Register(searchDirective, setupSearch) // in front of the cache, which then holds answers under their real names
	at = slices.Index(dnsserver.Directives, "autopath")
	dnsserver.Directives = slices.Insert(dnsserver.Directives, at, searchDirective)
})

func setup(c *caddy.Controller) error {
	h, err := parse(c)
	if err != nil {
		return plugin.Error(directive, err)
	}
	h.Upstream = upstream.New()
	h.HostSearch, _ = hostSearch("/etc/resolv.conf") // none: as pods have none
	cfg := dnsserver.GetConfig(c)
	if l := loading.Load(); l != nil {
		cfg.UDPDecorateWriterFunc = func(s *dnsserver.Server) dns.DecorateWriter { // CoreDNS's call before it reads its UDP socket
			l.front.attach(s, newFastPath(l.plan, s, cfg, h))
			return nil
		}
	}
	cfg.AddPlugin(func(next plugin.Handler) plugin.Handler {
		h.Next = next
		return h
	})
	return nil
}

// parse reads
//
//	fairlead [ZONES...] {
//	    ttl SECONDS
//	    pods disabled|insecure|verified
//	    fallthrough [ZONES...]
//	}
//
// One of the zones is the cluster domain; those below in-addr.arpa and ip6.arpa are for reverse look-ups.
func parse(c *caddy.Controller) (*Handler, error) {
	h := &Handler{Zone: &Zone{TTL: defaultTTL, Pods: PodsInsecure, Directory: source.Load(), asked: &asked}}
	if !c.Next() {
		return nil, c.ArgErr()
	}
	for _, zone := range plugin.OriginsFromArgsOrServerBlock(c.RemainingArgs(), c.ServerBlockKeys) {
		switch {
		case dns.IsSubDomain("in-addr.arpa.", zone) || dns.IsSubDomain("ip6.arpa.", zone):
			h.Reverse = append(h.Reverse, zone)
		case h.Zone.Domain != "":
			return nil, c.Errf("two cluster domains, %s and %s: use one", h.Zone.Domain, zone)
		default:
			h.Zone.Domain = strings.ToLower(zone)
		}
	}
	if h.Zone.Domain == "" || h.Zone.Domain == "." {
		return nil, c.Err("no cluster domain; write for example: fairlead cluster.local in-addr.arpa ip6.arpa")
	}
	for c.NextBlock() {
		if err := h.option(c); err != nil {
			return nil, err
		}
	}
	if c.Next() {
		return nil, fmt.Errorf("%s stands twice in one server block", directive)
	}
	return h, nil
}

func (h *Handler) option(c *caddy.Controller) error {
	option := c.Val()
	args := c.RemainingArgs()
	switch option {
	case "ttl":
		if len(args) != 1 {
			return c.ArgErr()
		}
		ttl, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil || ttl > 3600 {
			return c.Errf("ttl %q: want 0 to 3600 seconds", args[0])
		}
		h.Zone.TTL = uint32(ttl)
	case "pods":
		if len(args) != 1 {
			return c.ArgErr()
		}
		switch args[0] {
		case "disabled":
			h.Zone.Pods = PodsDisabled
		case "insecure":
			h.Zone.Pods = PodsInsecure
		case "verified":
			h.Zone.Pods = PodsVerified
		default:
			return c.Errf("pods %q: want disabled, insecure or verified", args[0])
		}
	case "fallthrough":
		h.Fall.SetZonesFromArgs(args)
	default:
		return c.Errf("unknown option %q: want ttl, pods or fallthrough", option)
	}
	return nil
}

// setupSearch reads
//
//	search DOMAIN [RESOLV_CONF]
//
// DOMAIN is the cluster's. The node's own search list is read from RESOLV_CONF, by default /etc/resolv.conf, as the kubelet does for pods.
func setupSearch(c *caddy.Controller) error {
	c.Next()
	args := c.RemainingArgs()
	if len(args) < 1 || len(args) > 2 || c.NextBlock() || c.Next() {
		return plugin.Error(searchDirective, c.Err("want once: search DOMAIN [RESOLV_CONF]"))
	}
	s := &Search{Domain: strings.ToLower(dns.Fqdn(args[0])), Directory: source.Load()}
	file := "/etc/resolv.conf"
	if len(args) == 2 {
		file = args[1]
	}
	var err error
	if s.Host, err = hostSearch(file); err != nil && len(args) == 2 {
		return plugin.Error(searchDirective, err)
	}
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		s.Next = next
		return s
	})
	return nil
}

// hostSearch reads a node's search list, fully qualified and in lower case.
func hostSearch(file string) ([]string, error) {
	conf, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, d := range conf.Search {
		if d = strings.ToLower(dns.Fqdn(d)); d != "." {
			list = append(list, d)
		}
	}
	return list, nil
}
