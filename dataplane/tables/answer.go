// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"fmt"
	"net/netip"

	"github.com/cilium/statedb"
	"github.com/cilium/statedb/index"
)

// Answer says that a process of this node answers, over UDP and TCP, at an address and port that a Service has: packets for it that reach the node's network stack untranslated are
// served. Whoever runs the process writes the row while that holds.
type Answer struct {
	At netip.AddrPort
	// Servers are the same process's other addresses: the Service's endpoints that it is. Other endpoints are not answered for.
	Servers []netip.AddrPort
}

// TableHeader implements statedb.TableWritable.
func (*Answer) TableHeader() []string { return []string{"At", "Servers"} }

// TableRow implements statedb.TableWritable.
func (a *Answer) TableRow() []string { return []string{a.At.String(), fmt.Sprint(a.Servers)} }

// AnswerByAddress is the primary index of Answers.
var AnswerByAddress = statedb.Index[*Answer, netip.AddrPort]{
	Name:       "address",
	FromObject: func(a *Answer) index.KeySet { return index.NewKeySet(addrPortKey(a.At)) },
	FromKey:    addrPortKey,
	Unique:     true,
}

func addrPortKey(a netip.AddrPort) index.Key {
	return append(addrKey(a.Addr()), byte(a.Port()>>8), byte(a.Port()))
}
