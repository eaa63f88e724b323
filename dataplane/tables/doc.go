// SPDX-License-Identifier: Apache-2.0

// Package tables holds a node's view of the cluster as rows: the meeting point of those who watch and those who carry out.
//
//	dataplane/cluster (Kubernetes API) --upsert--> Services, EndpointSlices, Nodes --watch--> loadbalancer, route, dns
//	dataplane/endpoint (CNI)          --upsert--> LocalPods                       --watch--> endpoint, loadbalancer (host ports)
//
// Rows are plain values without client-go types, compact, and immutable once inserted: change a copy. Text that many rows repeat (namespaces,
// zones, node names, port names) is interned with Intern by whoever fills the tables.
//
// Readers that prune must wait for Initialized: until then the tables hold less than the cluster does.
package tables

import (
	"github.com/cilium/statedb"
)

// Tables are all tables of one node's dataplane.
type Tables struct {
	DB             *statedb.DB
	Services       statedb.RWTable[*Service]
	EndpointSlices statedb.RWTable[*EndpointSlice]
	Nodes          statedb.RWTable[*Node]
	LocalPods      statedb.RWTable[*LocalPod]
}

// New returns empty tables in a database of their own.
func New() (*Tables, error) {
	t := &Tables{DB: statedb.New()}
	var err error
	if t.Services, err = statedb.NewTable(t.DB, "services", ServiceByName, ServiceByClusterIP); err != nil {
		return nil, err
	}
	if t.EndpointSlices, err = statedb.NewTable(t.DB, "endpointslices", SliceByName, SliceByService, SliceByEndpoint); err != nil {
		return nil, err
	}
	if t.Nodes, err = statedb.NewTable(t.DB, "nodes", NodeByName, NodeByIP); err != nil {
		return nil, err
	}
	if t.LocalPods, err = statedb.NewTable(t.DB, "localpods", LocalPodByID, LocalPodByIP); err != nil {
		return nil, err
	}
	return t, nil
}
