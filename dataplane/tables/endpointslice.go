// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"net/netip"
	"strconv"

	"github.com/cilium/statedb"
	"github.com/cilium/statedb/index"
)

// Conditions are an endpoint's conditions.
type Conditions uint8

// The bits of Conditions. API defaults are already applied: nil ready is ready, nil serving is ready, nil terminating is not.
const (
	Ready Conditions = 1 << iota
	Serving
	Terminating
)

// EndpointPort is one of a slice's ports. Port 0 means "all ports" and carries no backend.
type EndpointPort struct {
	Name        string
	AppProtocol string
	Protocol    Protocol
	Port        uint16
}

// ObjectRef names the object behind an endpoint, usually a Pod.
type ObjectRef struct {
	Kind      string
	Namespace string
	Name      string
	UID       string
}

// Endpoint is one endpoint of a slice. Only the first address counts, as in kube-proxy (EndpointSlice API: consumers must handle only the first).
type Endpoint struct {
	Addr       netip.Addr
	Hostname   string
	NodeName   string
	Zone       string
	Conditions Conditions
	ForZones   []string // hints.forZones
	ForNodes   []string // hints.forNodes
	Target     ObjectRef
}

// EndpointSlice is what the dataplane needs to know of a Kubernetes EndpointSlice of address type IPv4 or IPv6 (FQDN slices are not kept).
type EndpointSlice struct {
	Name      Name
	Service   string // label kubernetes.io/service-name; empty: belongs to none
	IPv6      bool
	Ports     []EndpointPort
	Endpoints []Endpoint
	// Annotations are those below service.fairlead.io/ (weights); nil if none.
	Annotations map[string]string
}

// ServiceName returns the name of the service that the slice belongs to.
func (s *EndpointSlice) ServiceName() Name { return Name{Namespace: s.Name.Namespace, Name: s.Service} }

// TableHeader implements statedb.TableWritable.
func (*EndpointSlice) TableHeader() []string { return []string{"Name", "Service", "Endpoints"} }

// TableRow implements statedb.TableWritable.
func (s *EndpointSlice) TableRow() []string {
	return []string{s.Name.String(), s.Service, strconv.Itoa(len(s.Endpoints))}
}

// SliceByName is the primary index of EndpointSlices.
var SliceByName = statedb.Index[*EndpointSlice, Name]{
	Name:       "name",
	FromObject: func(s *EndpointSlice) index.KeySet { return index.NewKeySet(nameKey(s.Name)) },
	FromKey:    nameKey,
	Unique:     true,
}

// SliceByService finds the slices of a service.
var SliceByService = statedb.Index[*EndpointSlice, Name]{
	Name: "service",
	FromObject: func(s *EndpointSlice) index.KeySet {
		if s.Service == "" {
			return index.KeySet{}
		}
		return index.NewKeySet(nameKey(s.ServiceName()))
	},
	FromKey: nameKey,
}

// SliceByEndpoint finds the slices that hold an endpoint address (reverse DNS, hairpins).
var SliceByEndpoint = statedb.Index[*EndpointSlice, netip.Addr]{
	Name: "endpoint",
	FromObject: func(s *EndpointSlice) index.KeySet {
		addrs := make([]netip.Addr, len(s.Endpoints))
		for i := range s.Endpoints {
			addrs[i] = s.Endpoints[i].Addr
		}
		return addrKeys(addrs)
	},
	FromKey: addrKey,
}
