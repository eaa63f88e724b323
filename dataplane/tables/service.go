// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/cilium/statedb"
	"github.com/cilium/statedb/index"
)

// Name is a namespaced name.
type Name struct {
	Namespace string
	Name      string
}

func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Protocol is an IP protocol number (IPPROTO_*).
type Protocol uint8

// The protocols a Service port can have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol-%d", uint8(p))
}

// ServiceType is a Service's spec.type.
type ServiceType uint8

// The service types.
const (
	ClusterIP ServiceType = iota
	NodePort
	LoadBalancer
	ExternalName
)

func (t ServiceType) String() string {
	return [...]string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}[t&3]
}

// Policy is a Service's external or internal traffic policy.
type Policy uint8

// The traffic policies.
const (
	PolicyCluster Policy = iota
	PolicyLocal
)

func (p Policy) String() string { return [...]string{"Cluster", "Local"}[p&1] }

// ServicePort is one of a Service's ports.
type ServicePort struct {
	Name        string
	AppProtocol string
	Protocol    Protocol
	Port        uint16
	NodePort    uint16 // 0: none
}

// IngressIP is an address of status.loadBalancer.ingress.
type IngressIP struct {
	Addr netip.Addr
	// Proxy is ipMode Proxy: an outside load balancer answers the address, nodes must not short-circuit it.
	Proxy bool
}

// Service is what the dataplane needs to know of a Kubernetes Service.
type Service struct {
	Name         Name
	UID          string
	Type         ServiceType
	Headless     bool // clusterIP: None
	ClusterIPs   []netip.Addr
	ExternalIPs  []netip.Addr
	Ingress      []IngressIP
	Ports        []ServicePort
	ExternalName string // for type ExternalName
	// Affinity is the timeout of sessionAffinity ClientIP; 0: none.
	Affinity            time.Duration
	ExternalPolicy      Policy
	InternalPolicy      Policy
	HealthCheckNodePort uint16         // 0: none
	SourceRanges        []netip.Prefix // empty: everyone
	PublishNotReady     bool
	TrafficDistribution string // spec.trafficDistribution: "", PreferClose, PreferSameZone, PreferSameNode
	ProxyName           string // label service.kubernetes.io/service-proxy-name: someone else's service if not empty
	LoadBalancerClass   string
	Annotations         map[string]string // those below service.fairlead.io/ and service.kubernetes.io/topology-mode; nil if none
}

// TableHeader implements statedb.TableWritable.
func (*Service) TableHeader() []string {
	return []string{"Name", "Type", "ClusterIPs", "ExternalIPs", "Ports"}
}

// TableRow implements statedb.TableWritable.
func (s *Service) TableRow() []string {
	ports := make([]string, len(s.Ports))
	for i, p := range s.Ports {
		ports[i] = fmt.Sprintf("%s:%d/%s", p.Name, p.Port, p.Protocol)
	}
	external := joinAddrs(s.ExternalIPs)
	for _, in := range s.Ingress {
		external += " " + in.Addr.String()
	}
	return []string{s.Name.String(), s.Type.String(), joinAddrs(s.ClusterIPs), strings.TrimSpace(external), strings.Join(ports, ",")}
}

// ServiceByName is the primary index of Services.
var ServiceByName = statedb.Index[*Service, Name]{
	Name:       "name",
	FromObject: func(s *Service) index.KeySet { return index.NewKeySet(nameKey(s.Name)) },
	FromKey:    nameKey,
	Unique:     true,
}

// ServiceByClusterIP finds a service by any of its cluster addresses (reverse DNS).
var ServiceByClusterIP = statedb.Index[*Service, netip.Addr]{
	Name:       "cluster-ip",
	FromObject: func(s *Service) index.KeySet { return addrKeys(s.ClusterIPs) },
	FromKey:    addrKey,
}

func nameKey(n Name) index.Key {
	k := make([]byte, 0, len(n.Namespace)+1+len(n.Name))
	k = append(k, n.Namespace...)
	k = append(k, '/')
	return append(k, n.Name...)
}

func addrKey(a netip.Addr) index.Key {
	b := a.As16()
	return b[:]
}

func addrKeys(addrs []netip.Addr) index.KeySet {
	keys := make([]index.Key, 0, len(addrs))
	for _, a := range addrs {
		if a.IsValid() {
			keys = append(keys, addrKey(a))
		}
	}
	return index.NewKeySet(keys...)
}

func joinAddrs(addrs []netip.Addr) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return strings.Join(s, " ")
}
