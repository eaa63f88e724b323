// SPDX-License-Identifier: Apache-2.0

package placement

import "github.com/fairlead/fairlead/controlplane/scheduler/cluster"

// gate is a rule about a topology domain as a whole: nodes of a domain that is not allowed are refused.
type gate interface {
	// prepare computes which domains are allowed, from the aggregates as they are.
	prepare()
	// admits judges node n as prepared.
	admits(n int32) Reason
	// without judges node n as if victims, pods of n, were gone.
	without(n *cluster.Node, victims []*cluster.Pod) Reason
}

// domains is the part that gates share: the verdict per domain.
type domains struct {
	agg     *aggregate
	allowed []bool // by domain
	refused Reason // for a domain that is not allowed
	missing Reason // for a node without the label; fits if that is no obstacle
}

func (d *domains) admits(n int32) Reason {
	domain := d.agg.topology.Domain[n]
	if domain == cluster.NoDomain {
		return d.missing
	}
	if !d.allowed[domain] {
		return d.refused
	}
	return fits
}

// judge fills allowed by a verdict on each domain's count.
func (d *domains) judge(ok func(count int64) bool) {
	size := d.agg.topology.Domains()
	if cap(d.allowed) < size {
		d.allowed = make([]bool, size, size+size/4)
	}
	d.allowed = d.allowed[:size]
	for domain, sum := range d.agg.sum {
		d.allowed[domain] = ok(sum)
	}
	empty := ok(0)
	for domain := len(d.agg.sum); domain < size; domain++ {
		d.allowed[domain] = empty
	}
}
