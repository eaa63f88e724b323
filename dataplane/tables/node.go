// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"net/netip"
	"unique"

	"github.com/cilium/statedb"
	"github.com/cilium/statedb/index"
)

// Node is what the dataplane needs to know of a Kubernetes Node.
type Node struct {
	Name        string
	InternalIPs []netip.Addr
	ExternalIPs []netip.Addr
	PodCIDRs    []netip.Prefix
	Zone        string // label topology.kubernetes.io/zone
	Region      string // label topology.kubernetes.io/region
	// ExcludeFromLB is the presence of label node.kubernetes.io/exclude-from-external-load-balancers.
	ExcludeFromLB bool
	Ready         bool
	// Annotations are those below fairlead.io/ (tunnel and health facts nodes publish for each other); nil if none.
	Annotations map[string]string
}

// TableHeader implements statedb.TableWritable.
func (*Node) TableHeader() []string { return []string{"Name", "InternalIPs", "PodCIDRs", "Zone"} }

// TableRow implements statedb.TableWritable.
func (n *Node) TableRow() []string {
	cidrs := ""
	for i, p := range n.PodCIDRs {
		if i > 0 {
			cidrs += " "
		}
		cidrs += p.String()
	}
	return []string{n.Name, joinAddrs(n.InternalIPs), cidrs, n.Zone}
}

// NodeByName is the primary index of Nodes.
var NodeByName = statedb.Index[*Node, string]{
	Name:       "name",
	FromObject: func(n *Node) index.KeySet { return index.NewKeySet(index.String(n.Name)) },
	FromKey:    index.String,
	Unique:     true,
}

// NodeByIP finds a node by any of its addresses.
var NodeByIP = statedb.Index[*Node, netip.Addr]{
	Name: "ip",
	FromObject: func(n *Node) index.KeySet {
		return addrKeys(append(append([]netip.Addr(nil), n.InternalIPs...), n.ExternalIPs...))
	},
	FromKey: addrKey,
}

// Intern returns s backed by memory that all equal strings share.
func Intern(s string) string { return unique.Make(s).Value() }
