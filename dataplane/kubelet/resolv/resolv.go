// SPDX-License-Identifier: Apache-2.0

// Package resolv makes a pod's resolver settings from its dnsPolicy and dnsConfig, as the Kubernetes documentation "DNS for Services and
// Pods" has them.
package resolv

import (
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	maxServers  = 3
	maxSearches = 32
	maxSearch   = 2048
)

// Cluster is the cluster's DNS.
type Cluster struct {
	Servers []string
	Domain  string
	Host    string // the node's resolv.conf; empty: pods with the node's policy get no servers
}

// For returns the settings for a pod.
func (c Cluster) For(pod *v1.Pod) (*runtimeapi.DNSConfig, error) {
	host := &runtimeapi.DNSConfig{}
	if c.Host != "" {
		data, err := os.ReadFile(c.Host)
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("resolver settings of the node: %w", err)
		}
		host = Parse(string(data))
	}
	var out *runtimeapi.DNSConfig
	switch policy := pod.Spec.DNSPolicy; {
	case policy == v1.DNSNone:
		out = &runtimeapi.DNSConfig{}
	case policy == v1.DNSDefault, policy != v1.DNSClusterFirstWithHostNet && pod.Spec.HostNetwork, len(c.Servers) == 0:
		out = host
	default:
		suffix := "svc." + c.Domain
		out = &runtimeapi.DNSConfig{
			Servers:  slices.Clone(c.Servers),
			Searches: append([]string{pod.Namespace + "." + suffix, suffix, c.Domain}, host.Searches...),
			Options:  []string{"ndots:5"},
		}
	}
	if custom := pod.Spec.DNSConfig; custom != nil {
		out.Servers = unique(append(out.Servers, custom.Nameservers...))
		out.Searches = unique(append(out.Searches, custom.Searches...))
		out.Options = mergeOptions(out.Options, custom.Options)
	}
	out.Servers = out.Servers[:min(len(out.Servers), maxServers)]
	out.Searches = limitSearches(out.Searches)
	return out, nil
}

// Parse reads a resolv.conf.
func Parse(text string) *runtimeapi.DNSConfig {
	out := &runtimeapi.DNSConfig{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			out.Servers = append(out.Servers, fields[1])
		case "search", "domain":
			out.Searches = nil // the last one counts
			for _, search := range fields[1:] {
				if search != "." {
					search = strings.TrimSuffix(search, ".")
				}
				out.Searches = append(out.Searches, search)
			}
		case "options":
			out.Options = append(out.Options, fields[1:]...)
		}
	}
	return out
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mergeOptions replaces options of the same name and adds the others.
func mergeOptions(have []string, custom []v1.PodDNSConfigOption) []string {
	out := slices.Clone(have)
	for _, option := range custom {
		text := option.Name
		if option.Value != nil && *option.Value != "" {
			text += ":" + *option.Value
		}
		i := slices.IndexFunc(out, func(s string) bool { name, _, _ := strings.Cut(s, ":"); return name == option.Name })
		if i >= 0 {
			out[i] = text
		} else {
			out = append(out, text)
		}
	}
	return out
}

func limitSearches(list []string) []string {
	list = unique(list)
	list = list[:min(len(list), maxSearches)]
	for len(strings.Join(list, " ")) > maxSearch {
		list = list[:len(list)-1]
	}
	return list
}
