// SPDX-License-Identifier: Apache-2.0

// Package tables holds a node's view of the cluster as rows: the meeting point of those who watch and those who carry out.
//
//	dataplane/cluster (Kubernetes API) --upsert--> Services, EndpointSlices, Nodes --watch--> loadbalancer, route, dns
//	dataplane/endpoint (CNI)          --upsert--> LocalPods                       --watch--> endpoint, loadbalancer (host ports)
//	dataplane/network (cluster DNS)   --upsert--> Answers                         --watch--> loadbalancer
//
// Rows are plain values without client-go types, compact, and immutable once inserted: change a copy. Text that many rows repeat (namespaces,
// zones, node names, port names) is interned with Intern by whoever fills the tables.
//
// Readers that prune must wait for Initialized: until then the tables hold less than the cluster does.
package tables

import (
	"fmt"

	"github.com/cilium/statedb"
)

// Tables are all tables of one node's dataplane.
type Tables struct {
	DB             *statedb.DB
	Services       statedb.RWTable[*Service]
	EndpointSlices statedb.RWTable[*EndpointSlice]
	Nodes          statedb.RWTable[*Node]
	LocalPods      statedb.RWTable[*LocalPod]
	Answers        statedb.RWTable[*Answer]

	fillers map[string]func(statedb.WriteTxn) // by "table/filler"
}

// New returns empty tables in a database of their own. Services, EndpointSlices and Nodes count as initialized once every given filler has called Filled for each of them; with no
// filler they do at once (tests).
func New(fillers ...string) (*Tables, error) {
	t := &Tables{DB: statedb.New(), fillers: map[string]func(statedb.WriteTxn){}}
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
	if t.Answers, err = statedb.NewTable(t.DB, "answers", AnswerByAddress); err != nil {
		return nil, err
	}
	w := t.DB.WriteTxn(t.Services, t.EndpointSlices, t.Nodes)
	defer w.Commit()
	for _, f := range fillers {
		t.fillers["services/"+f] = t.Services.RegisterInitializer(w, f)
		t.fillers["endpointslices/"+f] = t.EndpointSlices.RegisterInitializer(w, f)
		t.fillers["nodes/"+f] = t.Nodes.RegisterInitializer(w, f)
	}
	return t, nil
}

// Filled says that filler has put all there is into the table of the given name, in the transaction w, which must have locked it. Saying so again does nothing.
// It returns an error for a filler that New was not told of: readers would not have waited for it.
func (t *Tables) Filled(w statedb.WriteTxn, table, filler string) error {
	done, ok := t.fillers[table+"/"+filler]
	if !ok {
		return fmt.Errorf("tables were made without the filler %q, so readers did not wait for it", filler)
	}
	done(w)
	return nil
}
