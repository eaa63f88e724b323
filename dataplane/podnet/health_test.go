// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fairlead/fairlead/dataplane/health"
	"github.com/fairlead/fairlead/dataplane/route"
)

// peers reads a node's health report.
func (n *node) peers() ([]health.Peer, error) {
	var out []health.Peer
	body, err := os.ReadFile(filepath.Join(n.cfg.Dir, "run", health.File))
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	return out, err
}

func TestHealth(t *testing.T) {
	for name, shared := range map[string]bool{"native": true, "VXLAN": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, route.Auto, shared)
			c.start()
			want := func(what string, up bool) {
				t.Helper()
				eventually(t, what, func() error {
					peers, err := c.nodes[0].peers()
					if err != nil {
						return err
					}
					if len(peers) != 2 {
						return fmt.Errorf("%d peer addresses", len(peers))
					}
					for _, p := range peers {
						if p.Node != "node1" || p.Reachable != up || up && p.Latency <= 0 {
							return fmt.Errorf("%+v", p)
						}
					}
					return nil
				})
			}
			want("the other node answers in both families", true)
			h := c.nodes[1].ns.Netlink(t)
			l, err := h.LinkByName("up0")
			if err != nil {
				t.Fatal(err)
			}
			if err := h.LinkSetDown(l); err != nil {
				t.Fatal(err)
			}
			want("its link is down", false)
		})
	}
}
