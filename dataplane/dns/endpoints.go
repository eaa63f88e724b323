// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"
	"strings"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
)

// endpoint is a published endpoint of a headless service.
type endpoint struct {
	row   *directory.Endpoint
	addr  netip.Addr
	ports []directory.Port
}

// host is the endpoint's label below the service's name. Most questions do not need it.
func (e endpoint) host() string { return hostLabel(e.row) }

// endpoints returns the published endpoints of svc: the ready ones, or all when it publishes not-ready addresses. An endpoint that two slices
// hold, as happens while slices are rearranged, is returned once.
func (z *Zone) endpoints(v directory.View, svc *directory.Service) []endpoint {
	var out []endpoint
	var seen map[netip.Addr]int // from the second slice on: a slice holds an address once
	for _, slice := range v.Slices(svc.Name) {
		if out == nil {
			out = make([]endpoint, 0, len(slice.Endpoints))
		} else if seen == nil {
			seen = make(map[netip.Addr]int, len(out)+len(slice.Endpoints))
			for i := range out {
				seen[out[i].addr] = i
			}
		}
		for i := range slice.Endpoints {
			ep := &slice.Endpoints[i]
			if !ep.Ready && !svc.PublishNotReady {
				continue
			}
			if at, dup := seen[ep.Addr]; dup {
				out[at].ports = mergePorts(out[at].ports, slice.Ports)
				continue
			}
			if seen != nil {
				seen[ep.Addr] = len(out)
			}
			out = append(out, endpoint{row: ep, addr: ep.Addr, ports: slice.Ports})
		}
	}
	return out
}

func mergePorts(have, more []directory.Port) []directory.Port {
	merged := have
next:
	for _, p := range more {
		for _, h := range have {
			if h == p {
				continue next
			}
		}
		merged = append(merged[:len(merged):len(merged)], p)
	}
	return merged
}

// hostLabel is the endpoint's hostname in the sense of the specification: its own, else its address with dashes.
func hostLabel(ep *directory.Endpoint) string {
	if ep.Hostname != "" {
		return ep.Hostname
	}
	return dashes.Replace(ep.Addr.String())
}

var dashes = strings.NewReplacer(".", "-", ":", "-")

// dashedAddr reads an address written with dashes: 10-0-0-1, fd00--1.
func dashedAddr(label string) (netip.Addr, bool) {
	sep := "."
	if strings.Count(label, "-") != 3 || strings.Contains(label, "--") || strings.ContainsAny(label, "abcdef") {
		sep = ":"
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", sep))
	return a, err == nil && a.Zone() == ""
}

func addrsOf(eps []endpoint) []netip.Addr {
	out := make([]netip.Addr, len(eps))
	for i, ep := range eps {
		out[i] = ep.addr
	}
	return out
}

func isProtocol(label string) bool { return label == "_tcp" || label == "_udp" || label == "_sctp" }
