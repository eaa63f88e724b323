// SPDX-License-Identifier: Apache-2.0

package directory

import "net/netip"

// Name is a namespaced name.
type Name struct {
	Namespace string
	Name      string
}

func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Port is a named port. Names and protocols are in lower case: "http", "tcp".
type Port struct {
	Name     string
	Protocol string
	Port     uint16
}

// Service is a Service's part in DNS.
type Service struct {
	Name            Name
	External        bool   // type ExternalName
	Target          string // for type ExternalName
	Headless        bool
	PublishNotReady bool
	ClusterIPs      []netip.Addr
	Ports           []Port
}

// Endpoint is one endpoint of a slice.
type Endpoint struct {
	Addr     netip.Addr
	Hostname string // lower case; empty: none
	Ready    bool
	Pod      bool // a pod of the slice's namespace is behind it
}

// Slice is an EndpointSlice's part in DNS.
type Slice struct {
	Name      Name
	Service   string // empty: belongs to none
	Ports     []Port
	Endpoints []Endpoint
}

// ServiceName is the name of the service that the slice belongs to.
func (s *Slice) ServiceName() Name { return Name{Namespace: s.Name.Namespace, Name: s.Service} }

// Pod is a pod of this node.
type Pod struct {
	ID        string // of its network interface
	Namespace string
	IPs       []netip.Addr
}

// Batch is a change of a Directory. It is what travels from the agent to the server: fields may be added at the end of its types, none renamed, so that
// neighbouring versions understand each other (encoding/gob).
type Batch struct {
	// Whole: services and slices that are not in this batch are gone.
	Whole bool
	// WholePods: pods that are not in this batch are gone.
	WholePods bool
	// Complete: from here on the directory holds the whole cluster. It stays so.
	Complete bool

	Services        []*Service
	Slices          []*Slice
	Pods            []*Pod
	DeletedServices []Name
	DeletedSlices   []Name
	DeletedPods     []string
}

// Empty reports whether applying the batch would change nothing.
func (b *Batch) Empty() bool {
	return !b.Whole && !b.WholePods && !b.Complete && len(b.Services)+len(b.Slices)+len(b.Pods)+len(b.DeletedServices)+len(b.DeletedSlices)+len(b.DeletedPods) == 0
}
