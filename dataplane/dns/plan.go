// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"slices"
	"strconv"
	"strings"

	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	corefile "github.com/coredns/coredns/plugin/pkg/parse"
)

// plan says what a Corefile lets the fast path do. The rule: a question is answered there only when none of the plugins that would have seen it on its way could have
// answered otherwise or wanted to know of it.
type plan struct {
	blocks   int      // server blocks with our plugin
	internal bool     // names of the cluster may be answered
	external bool     // answers for other names may be given again for a moment
	foreign  []string // zones of other server blocks, whose names are left to CoreDNS
	shuffle  bool     // loadbalance
	bufsize  int      // 0: none
}

// Directives that change no answer for names of the cluster, or in a way that the fast path knows.
var harmless = []string{"bind", "bufsize", "cache", "errors", "health", "loadbalance", "multisocket", "pprof", "prometheus", "ready", "reload", "root", "timeouts", searchDirective}

// Directives that may stand in a block whose answers for other names are given again: they take them from a cache or from servers elsewhere.
var remote = append([]string{directive, "forward", "loop", "tls", "transfer"}, harmless...)

// planOf reads a Corefile.
func planOf(text string) (plan, error) {
	blocks, err := caddyfile.Parse("Corefile", strings.NewReader(text), nil)
	if err != nil {
		return plan{}, err
	}
	var p plan
	for _, b := range blocks {
		if _, ours := b.Tokens[directive]; !ours {
			for _, key := range b.Keys {
				_, key = corefile.Transport(key)
				zones, _, err := plugin.SplitHostPort(key)
				if err != nil {
					return plan{}, err
				}
				for _, z := range zones {
					if z = plugin.Name(z).Normalize(); z != "." { // the root is asked only for what no other block has
						p.foreign = append(p.foreign, z)
					}
				}
			}
			continue
		}
		p.blocks++
		p.internal, p.external = true, true
		before := slices.Index(dnsserver.Directives, directive)
		for name, tokens := range b.Tokens {
			if i := slices.Index(dnsserver.Directives, name); i < before && !slices.Contains(harmless, name) {
				p.internal = false
			}
			if !slices.Contains(remote, name) {
				p.external = false
			}
			switch name {
			case "loadbalance":
				p.shuffle = true
				p.internal = p.internal && len(tokens) == 1 // with no argument: shuffled
			case "bufsize":
				if p.bufsize = 1232; len(tokens) > 1 { // CoreDNS's default
					if p.bufsize, err = strconv.Atoi(tokens[1].Text); err != nil {
						return plan{}, err
					}
				}
			}
		}
		_, cached := b.Tokens["cache"]
		p.external = p.external && p.internal && cached
	}
	if p.blocks != 1 {
		p.internal, p.external = false, false
	}
	return p, nil
}
