// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"sort"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/dataplane/loader"
)

type findingView struct {
	Where string `json:"where"`
	What  string `json:"what"`
}

func (env *environment) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Check the kernel's maps against each other and against what the agent last wrote down", Args: cobra.NoArgs,
		Long: "verify names every difference and fails if there is one. While the agent is at work, a difference may be one it is just removing: ask again.",
		RunE: func(*cobra.Command, []string) error {
			st, err := env.loadBalancer()
			if err != nil {
				return err
			}
			found := st.verify()
			l := listing{header: []string{"WHERE", "WHAT"}, value: found}
			for _, f := range found {
				l.rows = append(l.rows, []string{f.Where, f.What})
			}
			if len(found) == 0 {
				if env.output == "table" || env.output == "wide" {
					_, err := fmt.Fprintln(env.out, "no difference")
					return err
				}
				return env.print(l)
			}
			if err := env.print(l); err != nil {
				return err
			}
			return fmt.Errorf("%d differences", len(found))
		},
	}
}

// verify checks that every frontend's table names live backends of its own service, that every backend is reachable by a table or draining, and that frontends
// and the names file agree.
func (st *lbState) verify() []findingView {
	found := []findingView{}
	report := func(where, format string, args ...any) {
		found = append(found, findingView{where, fmt.Sprintf(format, args...)})
	}
	inKernel := map[string]bool{}
	used := map[uint32]bool{}
	for k, s := range st.services {
		if k.Proto == 0 {
			continue
		}
		where := fmt.Sprintf("%s %s/%s", st.service(s.Id), addrPort(k.Addr, k.Port), protocolName(k.Proto))
		inKernel[fmt.Sprint(s.Id, " ", addrPort(k.Addr, k.Port))] = true
		for side, run := range map[string]loader.BPFSlotRun{"inside": s.In, "outside": s.Out} {
			if int(run.Base+(run.Count+15)/16) > len(st.slots) {
				report(where, "table for traffic from %s lies beyond the slots map", side)
				continue
			}
			for row, n := range st.distinct(run) {
				used[row] = true
				switch {
				case int(row) >= len(st.backends) || row == 0:
					report(where, "%d slots for traffic from %s name no backend row (%d)", n, side, row)
				case st.backends[row].Service != s.Id:
					report(where, "table for traffic from %s lists %s, a backend of %s", side, addrPort(st.backends[row].Addr, st.backends[row].Port),
						st.service(st.backends[row].Service))
				case st.backends[row].Flags&3 == 0:
					report(where, "table for traffic from %s lists %s, which takes no connections", side, addrPort(st.backends[row].Addr, st.backends[row].Port))
				}
			}
		}
	}
	for i, b := range st.backends {
		if b.Flags&3 != 0 && !used[uint32(i)] && st.listed(b.Service) {
			report(st.service(b.Service), "backend %s takes connections but no table lists it", addrPort(b.Addr, b.Port))
		}
	}
	for id, n := range st.names.Services {
		for f := range n.Kinds {
			if !inKernel[fmt.Sprint(id, " ", f)] {
				report(n.String(), "frontend %s is not in the kernel", f)
			}
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Where+found[i].What < found[j].Where+found[j].What })
	return found
}

// listed says whether any frontend of the service uses cluster-wide tables: then all its usable backends should stand in one.
func (st *lbState) listed(id uint32) bool {
	for k, s := range st.services {
		if k.Proto != 0 && s.Id == id && s.Flags&0x18 == 0 {
			return true
		}
	}
	return false
}
