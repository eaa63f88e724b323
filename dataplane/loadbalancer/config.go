// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// Annotations of a Service that this package reads.
const (
	// AnnotationAlgorithm chooses the backend selection: "random", "maglev" or "least-connections".
	AnnotationAlgorithm = "service.fairlead.io/lb-algorithm"
	// AnnotationMode overrides Config.Mode for the Service.
	AnnotationMode = "service.fairlead.io/lb-mode"
	// AnnotationMaglevSize overrides the Maglev table size; one of MaglevSizes.
	AnnotationMaglevSize = "service.fairlead.io/maglev-size"
	// AnnotationWeight, on an EndpointSlice, is the weight of its endpoints, 1 to 255; default 1.
	AnnotationWeight = "service.fairlead.io/weight"
)

// Config is what Run needs.
type Config struct {
	// Tables are watched; required.
	Tables *tables.Tables
	// Loader loads and attaches the programs; required.
	Loader *loader.Loader
	// NodeName is this node's name, as endpoints name it.
	NodeName string
	// CgroupRoot is the cgroup2 directory whose processes get the socket hooks. Empty: no socket hooks.
	CgroupRoot string
	// Uplinks are devices (in the current network namespace) on which traffic from outside arrives. Empty: none.
	Uplinks []string
	// Overlay is the pod network's VXLAN device, if it has one: packets for remote backends may leave through it.
	Overlay string
	// XDP says how uplinks are attached: "auto" (XDP on real devices, tcx on veth, whose packets may carry unfinished checksums),
	// "xdp" or "tcx". Programs by tcx are attached in any case: they do what XDP leaves. Empty: auto.
	XDP string
	// Mode is how clients outside get their answers from backends on other nodes. Empty: SNAT. Nodes of both kinds work together.
	Mode Mode
	// Dispatch is how packets get to backends that answer directly. Empty: DispatchIPIP. Every node understands both.
	Dispatch Dispatch
	// NodeIPs are the addresses used for source translation, at most one of each family. Empty: the node's InternalIPs by its row in Tables.Nodes.
	NodeIPs []netip.Addr
	// PodCIDRs are the cluster's pod networks, at most one of each family: traffic from there is from inside.
	PodCIDRs []netip.Prefix
	// NodePortAddresses limits the addresses on which NodePorts answer. Empty: all of this namespace's.
	NodePortAddresses []netip.Prefix
	// StateDir is where the names file for flctl is kept. Empty: none is written.
	StateDir string
	// Registerer gets the metrics; nil: none.
	Registerer prometheus.Registerer
	// OnServiceError is told when a service cannot be programmed as it says (err != nil) and when it can again (nil). May be nil; must not block.
	OnServiceError func(name tables.Name, err error)
	// OnSynced is called once, after the first complete reconciliation. May be nil.
	OnSynced func()
}

// Quarantine is how long rows and slot runs stay untouched after the last reference to them is gone. Programs that read the reference before need
// microseconds; connections that remember a row compare its generation.
const Quarantine = 2 * time.Second
