// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestStaticPod(t *testing.T) {
	dir := t.TempDir()
	n := Start(t, func(c *Config) { c.Kubelet.StaticPodDir = dir })
	write := func(text string) {
		t.Helper()
		manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: app, image: 'fairlead.io/testapp:1', args: ['print=" + text + "', forever]}\n"
		if err := os.WriteFile(filepath.Join(dir, "web.yaml"), []byte(manifest), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	first := n.WaitReady("web-node")
	if first.Annotations[v1.MirrorPodAnnotationKey] == "" || first.OwnerReferences[0].Kind != "Node" {
		t.Errorf("metadata %+v", first.ObjectMeta)
	}
	write("two")
	n.Wait("web-node", "replaced", func(p *v1.Pod) bool {
		return p.UID != first.UID && ConditionOf(p, v1.PodReady) == v1.ConditionTrue
	})
	if err := os.Remove(filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	n.WaitGone("web-node")
}
