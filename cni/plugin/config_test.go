// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"maps"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/fairlead/fairlead/cni/wire"
)

// TestAnnotations: of the pod's annotations only our own reach the agent.
func TestAnnotations(t *testing.T) {
	c, err := parseConfig([]byte(`{"cniVersion":"1.0.0","name":"n","type":"fairlead-cni",
		"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"fairlead.io/socket-lb":"disabled","example.com/secret":"x"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	req, err := request(wire.Add, &skel.CmdArgs{ContainerID: "c1", IfName: "eth0"}, c)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"fairlead.io/socket-lb": "disabled"}; !maps.Equal(req.Annotations, want) {
		t.Errorf("annotations %v, want %v", req.Annotations, want)
	}
}
