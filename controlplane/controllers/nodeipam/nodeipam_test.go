// SPDX-License-Identifier: Apache-2.0

package nodeipam

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
)

func TestBlocksOfBothFamilies(t *testing.T) {
	for _, test := range []struct {
		base  string
		bits  int
		i     int
		block string
	}{
		{"10.244.0.0/16", 24, 0, "10.244.0.0/24"},
		{"10.244.0.0/16", 24, 255, "10.244.255.0/24"},
		{"10.0.0.0/8", 26, 5, "10.0.1.64/26"},
		{"fd00:10:244::/56", 64, 1, "fd00:10:244:1::/64"},
		{"fd00:10:244::/56", 68, 17, "fd00:10:244:1:1000::/68"}, // the number straddles both halves of the address
		{"fd00::/112", 120, 255, "fd00::ff00/120"},
	} {
		s, err := newCIDRSet(netip.MustParsePrefix(test.base), test.bits)
		if err != nil {
			t.Fatal(err)
		}
		got := s.block(test.i)
		if got.String() != test.block {
			t.Errorf("block %d of %s is %s, want %s", test.i, test.base, got, test.block)
		}
		if i, ok := s.index(got.Addr()); !ok || i != test.i {
			t.Errorf("%s is block %d of %s, want %d", got, i, test.base, test.i)
		}
	}
}

func TestMasksThatDoNotFitAreRefused(t *testing.T) {
	for _, test := range []struct {
		base string
		bits int
	}{{"10.0.0.0/16", 8}, {"10.0.0.0/16", 33}, {"fd00::/32", 64}} {
		if _, err := newCIDRSet(netip.MustParsePrefix(test.base), test.bits); err == nil {
			t.Errorf("/%d in %s was accepted", test.bits, test.base)
		}
	}
}

func TestAReleasedBlockIsReusedLast(t *testing.T) {
	s, err := newCIDRSet(netip.MustParsePrefix("10.0.0.0/22"), 24)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := s.allocate("a")
	s.release(a, "a")
	for i := range 3 {
		if b, ok := s.allocate(fmt.Sprint(i)); !ok || b == a {
			t.Fatalf("allocation %d got %v (%v)", i, b, ok)
		}
	}
	if b, ok := s.allocate("b"); !ok || b != a {
		t.Errorf("the last block is %v (%v), want %v", b, ok, a)
	}
	if _, ok := s.allocate("c"); ok {
		t.Error("a fifth block of four was given")
	}
}

func TestNodesGetDistinctBlocksThatAvoidServicesAndEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		had := controllertest.Node("old")
		had.Spec.PodCIDR, had.Spec.PodCIDRs = "10.0.1.0/24", []string{"10.0.1.0/24"}
		w := controllertest.NewWorld(t, []runtime.Object{had}, func(c *controller.Context) controller.Controller {
			c.Settings.ClusterCIDRs, c.Settings.ServiceCIDRs = []string{"10.0.0.0/22", "fd00:1::/62"}, []string{"10.0.0.0/25"}
			return New(c)
		})
		defer w.Close()
		for _, name := range []string{"a", "b", "c"} {
			_, err := w.Client.CoreV1().Nodes().Create(context.Background(), controllertest.Node(name), metav1.CreateOptions{})
			w.Check(err)
		}
		w.Wait()
		seen := map[string]string{"10.0.1.0/24": "old", "10.0.0.0/24": "services"}
		without := 0
		for _, name := range []string{"a", "b", "c"} {
			node, err := w.Client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
			w.Check(err)
			if len(node.Spec.PodCIDRs) == 0 {
				without++ // two of the four blocks are taken
				continue
			}
			if len(node.Spec.PodCIDRs) != 2 || node.Spec.PodCIDR != node.Spec.PodCIDRs[0] {
				t.Errorf("node %s: %q, %v", name, node.Spec.PodCIDR, node.Spec.PodCIDRs)
			}
			for _, p := range node.Spec.PodCIDRs {
				if other := seen[p]; other != "" {
					t.Errorf("%s and %s both have %s", name, other, p)
				}
				seen[p] = name
			}
		}
		if without != 1 {
			t.Fatalf("%d nodes have no block, want 1", without)
		}
		w.Check(w.Client.CoreV1().Nodes().Delete(context.Background(), "old", metav1.DeleteOptions{}))
		w.Settle *= 1000 // the refused node's back-off
		w.Wait()
		nodes, err := w.Client.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
		w.Check(err)
		for _, node := range nodes.Items {
			if len(node.Spec.PodCIDRs) != 2 {
				t.Errorf("node %s has %v after a block was released", node.Name, node.Spec.PodCIDRs)
			}
		}
	})
}
