// SPDX-License-Identifier: Apache-2.0

// Package wire is the protocol between the CNI plugin and the node agent.
//
// The plugin connects to the agent's unix socket (root only: mode 0600, and the peer's uid is checked), sends one request and reads one response.
// A message is a length (4 bytes, big endian) and that many bytes of JSON. The container's network namespace travels beside the request as a file descriptor
// (SCM_RIGHTS), so the agent needs neither the plugin's mount namespace nor a path that may have been reused.
//
// Both sides name the protocol versions they understand, [min, max]; the highest common one is spoken. Unknown JSON fields are ignored; a field is never
// given a new meaning. A plugin and an agent one release apart always have a version in common.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containernetworking/cni/pkg/types"
)

// The protocol versions this release speaks.
const (
	MinVersion = 1
	MaxVersion = 1
)

// MaxMessage bounds a message in bytes. A prevResult is the only part that another program chooses the size of.
const MaxMessage = 1 << 20

// Error codes of our own, from 100 on as the specification asks.
const (
	ErrNoAddress   uint = 100 // every address of the node's pod CIDRs is taken or in quarantine
	ErrWireVersion uint = 101 // plugin and agent have no protocol version in common
	ErrCheckFailed uint = 102 // CHECK found the attachment different from what ADD made
)

// AnnotationPrefix begins the names of the pod annotations that reach the agent.
const AnnotationPrefix = "fairlead.io/"

// Command is a CNI verb.
type Command string

// The verbs that reach the agent; VERSION is answered by the plugin.
const (
	Add    Command = "ADD"
	Del    Command = "DEL"
	Check  Command = "CHECK"
	Status Command = "STATUS"
	GC     Command = "GC"
)

// Attachment names one interface of one container.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// PortMapping publishes a port of the container on the node.
type PortMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp, udp or sctp
	HostIP        string `json:"hostIP,omitempty"`
}

// Bandwidth limits a container: rates in bits per second, bursts in bits, 0 for none. Ingress is towards the container.
type Bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// Request is what the plugin asks.
type Request struct {
	MinVersion int     `json:"minVersion"`
	MaxVersion int     `json:"maxVersion"`
	Command    Command `json:"command"`
	Network    string  `json:"network"` // the configuration's name
	Attachment
	Netns string            `json:"netns,omitempty"` // path, for people to read; the namespace itself is the file descriptor
	Args  map[string]string `json:"args,omitempty"`  // CNI_ARGS, e.g. K8S_POD_NAME
	// PrevResult is a result in version 1.1.0. With it in ADD the plugin is chained: the interface belongs to an earlier plugin.
	PrevResult json.RawMessage `json:"prevResult,omitempty"`
	// Last says that no other plugin of the chain touches the interface.
	Last         bool          `json:"last,omitempty"`
	PortMappings []PortMapping `json:"portMappings,omitempty"`
	Bandwidth    *Bandwidth    `json:"bandwidth,omitempty"`
	IPs          []string      `json:"ips,omitempty"` // addresses asked for, each with or without a prefix length
	MAC          string        `json:"mac,omitempty"`
	DNS          *types.DNS    `json:"dns,omitempty"`
	// Annotations are those of the pod whose name begins with AnnotationPrefix, where the runtime tells.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Valid is the list of attachments that GC keeps.
	Valid []Attachment `json:"valid,omitempty"`
}

// Response is what the agent answers: a result in version 1.1.0 (ADD only) or an error with a code of the specification.
type Response struct {
	Version int             `json:"version"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *types.Error    `json:"error,omitempty"`
}

// ErrTooLong is returned for a message above MaxMessage.
var ErrTooLong = errors.New("message longer than 1 MiB")

// Negotiate returns the highest version that both sides speak, or an error with code ErrWireVersion.
func Negotiate(peerMin, peerMax int) (int, *types.Error) {
	v := min(MaxVersion, peerMax)
	if v < MinVersion || v < peerMin {
		return 0, types.NewError(ErrWireVersion, "CNI plugin and node agent have no protocol version in common",
			fmt.Sprintf("plugin speaks %d to %d, agent %d to %d: install the plugin of the agent's release", peerMin, peerMax, MinVersion, MaxVersion))
	}
	return v, nil
}

// encode frames msg.
func encode(msg any) ([]byte, error) {
	body, err := json.Marshal(msg)
	if err != nil {
		return nil, err
	}
	if len(body) > MaxMessage {
		return nil, ErrTooLong
	}
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, len(body)+4), uint32(len(body))), body...), nil
}

// decode reads one frame from r into msg.
func decode(r io.Reader, msg any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxMessage {
		return ErrTooLong
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return json.Unmarshal(body, msg)
}
