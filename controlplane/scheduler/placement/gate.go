// SPDX-License-Identifier: Apache-2.0

package placement

import "github.com/fairlead/fairlead/controlplane/scheduler/cluster"

// gate is a rule about a topology domain as a whole: nodes of a domain that is not allowed are refused.
type gate interface {
	// prepare computes which domains are allowed, from the sums as they are.
	prepare()
	// admits judges node n as prepared.
	admits(n int32) Reason
	// without judges node n as if victims, pods of n, were gone.
	without(n *cluster.Node, victims []*cluster.Pod) Reason
}

// domains is the part that gates share: the verdict per domain.
type domains struct {
	topology *cluster.Topology
	allowed  []bool // by domain
	refused  Reason // for a domain that is not allowed
	missing  Reason // for a node without the label; fits if that is no obstacle
}

func (d *domains) admits(n int32) Reason {
	domain := d.topology.Domain[n]
	if domain == cluster.NoDomain {
		return d.missing
	}
	if !d.allowed[domain] {
		return d.refused
	}
	return fits
}

// reset sets the verdict on all domains.
func (d *domains) reset(allowed bool) {
	if size := d.topology.Domains(); len(d.allowed) < size {
		d.allowed = make([]bool, size+size/4+1)
	}
	if !allowed {
		clear(d.allowed)
		return
	}
	for i := range d.allowed {
		d.allowed[i] = true
	}
}
