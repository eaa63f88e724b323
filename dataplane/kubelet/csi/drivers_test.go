// SPDX-License-Identifier: Apache-2.0

package csi

import (
	"maps"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestDriverAddsToTheNodesLabels(t *testing.T) {
	for name, segments := range map[string]map[string]string{"with topology": {"zone": "a"}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			own := map[string]string{v1.LabelHostname: "n"}
			client := fake.NewClientset(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: maps.Clone(own), Annotations: map[string]string{nodeIDsByName: `{"other":"1"}`}}})
			d := &Drivers{Client: client, NodeName: "n"}
			if err := d.labelNode(t.Context(), &driver{name: "mine", nodeID: "2"}, segments); err != nil {
				t.Fatal(err)
			}
			node, err := client.CoreV1().Nodes().Get(t.Context(), "n", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			maps.Copy(own, segments)
			if !maps.Equal(node.Labels, own) {
				t.Errorf("labels %v, want %v", node.Labels, own)
			}
			if got := node.Annotations[nodeIDsByName]; got != `{"mine":"2","other":"1"}` {
				t.Errorf("annotation %s", got)
			}
		})
	}
}
