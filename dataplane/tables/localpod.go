// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/cilium/statedb"
	"github.com/cilium/statedb/index"
)

// HostPort publishes a pod's port on the node.
type HostPort struct {
	Protocol Protocol   `json:"protocol"`
	HostPort uint16     `json:"hostPort"`
	PodPort  uint16     `json:"podPort"`
	HostIP   netip.Addr `json:"hostIP,omitzero"` // zero: every address of the node
}

// Bandwidth limits a pod: bytes per second and bytes, 0 for no limit. In is towards the pod.
type Bandwidth struct {
	InRate   uint64 `json:"inRate,omitempty"`
	InBurst  uint64 `json:"inBurst,omitempty"`
	OutRate  uint64 `json:"outRate,omitempty"`
	OutBurst uint64 `json:"outBurst,omitempty"`
}

// LocalPod is a pod's interface on this node, as CNI asked for it. dataplane/endpoint writes the rows; they are also what it keeps on disk.
type LocalPod struct {
	ID          string       `json:"id"`      // container and interface: ContainerID/IfName
	Network     string       `json:"network"` // CNI network's name
	ContainerID string       `json:"containerID"`
	IfName      string       `json:"ifName"`
	Namespace   string       `json:"namespace,omitempty"` // of the Kubernetes pod; empty under other runtimes
	Name        string       `json:"name,omitempty"`
	UID         string       `json:"uid,omitempty"`
	IPs         []netip.Addr `json:"ips"`
	MAC         [6]byte      `json:"mac"`
	HostMAC     [6]byte      `json:"hostMAC"`
	HostIf      string       `json:"hostIf"`  // host side of the pair
	IfIndex     int          `json:"ifIndex"` // of HostIf
	Chained     bool         `json:"chained,omitempty"`
	Netkit      bool         `json:"netkit,omitempty"` // the pair is of netkit, not of veth
	Sole        bool         `json:"sole,omitempty"`   // no other plugin touches the host side
	HostPorts   []HostPort   `json:"hostPorts,omitempty"`
	Bandwidth   Bandwidth    `json:"bandwidth,omitzero"`
	Created     time.Time    `json:"created"`
	// NoSocketLB is the cookie of the pod's network namespace if its sockets are not to be pointed at backends; 0: they are.
	NoSocketLB uint64 `json:"noSocketLB,omitempty"`
}

// TableHeader implements statedb.TableWritable.
func (*LocalPod) TableHeader() []string {
	return []string{"ID", "Pod", "IPs", "HostIf", "IfIndex"}
}

// TableRow implements statedb.TableWritable.
func (p *LocalPod) TableRow() []string {
	return []string{p.ID, p.Namespace + "/" + p.Name, joinAddrs(p.IPs), p.HostIf, strconv.Itoa(p.IfIndex)}
}

// LocalPodByID is the primary index of LocalPods.
var LocalPodByID = statedb.Index[*LocalPod, string]{
	Name:       "id",
	FromObject: func(p *LocalPod) index.KeySet { return index.NewKeySet(index.String(p.ID)) },
	FromKey:    index.String,
	Unique:     true,
}

// LocalPodByIP finds the pod that has an address.
var LocalPodByIP = statedb.Index[*LocalPod, netip.Addr]{
	Name:       "ip",
	FromObject: func(p *LocalPod) index.KeySet { return addrKeys(p.IPs) },
	FromKey:    addrKey,
}
