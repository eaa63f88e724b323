// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/fairlead/fairlead/cni/wire"
)

// Where the plugin looks for the agent when its configuration does not say.
const (
	DefaultSocket = "/run/fairlead/cni.sock"
	DefaultQueue  = "/var/lib/fairlead/agent/cni-deletions"
)

// config is the plugin's part of a network configuration.
type config struct {
	types.PluginConf
	Socket string `json:"socket,omitempty"` // the agent's socket
	Queue  string `json:"queue,omitempty"`  // directory for deletions while the agent is down
	// Last says that no plugin comes after this one in the chain. Then ADD need not leave the host side's ingress qdisc free for one, and is faster by two RCU grace periods.
	Last bool `json:"last,omitempty"`

	RuntimeConfig struct {
		PortMappings []portMapping   `json:"portMappings,omitempty"`
		Bandwidth    *wire.Bandwidth `json:"bandwidth,omitempty"`
		IPs          []string        `json:"ips,omitempty"`
		MAC          string          `json:"mac,omitempty"`
		DNS          *struct {
			Servers  []string `json:"servers,omitempty"`
			Searches []string `json:"searches,omitempty"`
			Options  []string `json:"options,omitempty"`
			Domain   string   `json:"domain,omitempty"`
		} `json:"dns,omitempty"`
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations,omitempty"` // containerd and CRI-O have this name in common
	} `json:"runtimeConfig"`

	// Args is the older way to ask for addresses, args.cni of the conventions.
	Args struct {
		CNI struct {
			IPs []string `json:"ips,omitempty"`
			MAC string   `json:"mac,omitempty"`
		} `json:"cni"`
	} `json:"args"`
}

// portMapping has wider numbers than the wire's, so that a value out of range is refused and not cut.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

func badConfig(format string, args ...any) *types.Error {
	return types.NewError(types.ErrInvalidNetworkConfig, "invalid network configuration", fmt.Sprintf(format, args...))
}

func parseConfig(stdin []byte) (*config, error) {
	c := new(config)
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration is not what the plugin understands", err.Error())
	}
	if c.Socket == "" {
		c.Socket = DefaultSocket
	}
	if c.Queue == "" {
		c.Queue = DefaultQueue
	}
	return c, nil
}

// prevResult returns the previous plugin's result in version 1.1.0, nil when there is none.
func (c *config) prevResult() (json.RawMessage, error) {
	if c.RawPrevResult == nil {
		return nil, nil
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, badConfig("prevResult: %v", err)
	}
	r, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, badConfig("prevResult: %v", err)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, badConfig("prevResult: %v", err)
	}
	return body, nil
}

// request translates what the runtime asked into a request to the agent.
func request(cmd wire.Command, args *skel.CmdArgs, c *config) (*wire.Request, error) {
	req := &wire.Request{Command: cmd, Network: c.Name, Netns: args.Netns, Attachment: wire.Attachment{ContainerID: args.ContainerID, IfName: args.IfName}}
	var err error
	if req.Args, err = parseArgs(args.Args); err != nil {
		return nil, err
	}
	if cmd == wire.Add || cmd == wire.Check {
		if req.PrevResult, err = c.prevResult(); err != nil {
			return nil, err
		}
	}
	if cmd != wire.Add {
		return req, nil
	}
	for _, m := range c.RuntimeConfig.PortMappings {
		if m.HostPort == 0 {
			continue // a container port that nobody publishes
		}
		pm, err := m.check()
		if err != nil {
			return nil, err
		}
		req.PortMappings = append(req.PortMappings, pm)
	}
	req.Last = c.Last
	for name, value := range c.RuntimeConfig.Annotations {
		if strings.HasPrefix(name, wire.AnnotationPrefix) {
			if req.Annotations == nil {
				req.Annotations = map[string]string{}
			}
			req.Annotations[name] = value
		}
	}
	req.Bandwidth = c.RuntimeConfig.Bandwidth
	req.IPs = c.RuntimeConfig.IPs
	if len(req.IPs) == 0 {
		req.IPs = c.Args.CNI.IPs
	}
	if ip := req.Args["IP"]; ip != "" && len(req.IPs) == 0 {
		req.IPs = strings.Split(ip, ",")
	}
	for _, s := range req.IPs {
		if _, err := ParseIP(s); err != nil {
			return nil, badConfig("ips: %v", err)
		}
	}
	for _, mac := range []string{c.RuntimeConfig.MAC, c.Args.CNI.MAC, req.Args["MAC"]} {
		if mac != "" {
			hw, err := net.ParseMAC(mac)
			if err != nil || len(hw) != 6 || hw[0]&1 != 0 {
				return nil, badConfig("mac: %q is not a unicast Ethernet address", mac)
			}
			req.MAC = hw.String()
			break
		}
	}
	if d := c.RuntimeConfig.DNS; d != nil && (len(d.Servers)+len(d.Searches)+len(d.Options) > 0 || d.Domain != "") {
		req.DNS = &types.DNS{Nameservers: d.Servers, Search: d.Searches, Options: d.Options, Domain: d.Domain}
	} else if !c.DNS.IsEmpty() {
		req.DNS = c.DNS.Copy()
	}
	return req, nil
}

func (m portMapping) check() (wire.PortMapping, error) {
	out := wire.PortMapping{HostPort: uint16(m.HostPort), ContainerPort: uint16(m.ContainerPort), Protocol: strings.ToLower(m.Protocol), HostIP: m.HostIP}
	if out.Protocol == "" {
		out.Protocol = "tcp"
	}
	switch {
	case m.HostPort < 1 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535:
		return out, badConfig("portMappings: ports %d and %d must be 1 to 65535", m.HostPort, m.ContainerPort)
	case out.Protocol != "tcp" && out.Protocol != "udp" && out.Protocol != "sctp":
		return out, badConfig("portMappings: protocol %q is none of tcp, udp, sctp", m.Protocol)
	}
	if m.HostIP != "" {
		ip, err := netip.ParseAddr(m.HostIP)
		if err != nil {
			return out, badConfig("portMappings: hostIP %q is no address", m.HostIP)
		}
		if out.HostIP = ip.Unmap().String(); ip.IsUnspecified() {
			out.HostIP = ""
		}
	}
	return out, nil
}

// ParseIP reads an address with or without a prefix length.
func ParseIP(s string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr().Unmap(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return a, fmt.Errorf("%q is no address", s)
	}
	return a.Unmap(), nil
}

// parseArgs reads CNI_ARGS, "K=V;K=V". Unknown keys are kept: the agent takes the pod's name from them.
func parseArgs(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	out := make(map[string]string)
	for _, kv := range strings.Split(s, ";") {
		if kv == "" {
			continue
		}
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS must be KEY=VALUE pairs with ';' between", fmt.Sprintf("pair %q", kv))
		}
		out[k] = v
	}
	return out, nil
}
