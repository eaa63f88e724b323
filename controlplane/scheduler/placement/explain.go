// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"cmp"
	"slices"
)

// Row is what one node says to a pod.
type Row struct {
	Node string
	// Plugin and Reasons are set if the node was refused: by whom and why.
	Plugin  Plugin
	Reasons []string
	// Scores are the weighted scores of a node that was not refused; Total is their sum.
	Scores map[Plugin]int64
	Total  int64
}

// Refused reports whether the node cannot take the pod.
func (r *Row) Refused() bool { return len(r.Reasons) > 0 }

// Explain asks every node about r: the best first, then those that refuse. blocked is set if the pod can go nowhere whatever the nodes say.
func (e *Evaluator) Explain(r Request) (rows []Row, blocked string) {
	v := e.view(r.Class)
	if blocked = cmp.Or(r.Class.unresolved, r.Class.bad, v.blocked); blocked != "" {
		return nil, blocked
	}
	candidates := slices.Clone(v.candidates())
	if r.Pinned != "" {
		candidates = slices.DeleteFunc(candidates, func(i int32) bool { return e.State.Nodes[i].Name != r.Pinned })
	}
	byNode := map[int32]*Row{}
	for _, i := range candidates {
		row := &Row{Node: e.State.Nodes[i].Name, Scores: map[Plugin]int64{}}
		for _, s := range localScores {
			if w := r.Class.Profile.Weights[s.plugin]; w > 0 {
				row.Scores[s.plugin] = w * s.score(e, r.Class.Needs, e.State.Nodes[i])
			}
		}
		byNode[i] = row
	}
	if len(candidates) > 0 {
		raw := make([]int64, len(candidates))
		for _, s := range v.fieldScores() {
			s.score(candidates, raw)
			for k, i := range candidates {
				byNode[i].Scores[s.plugin] = s.weight * raw[k]
			}
		}
	}
	v.prepareGates()
	for i, n := range e.State.Nodes {
		reason := v.admit(int32(i))
		if reason == absent {
			continue
		}
		row := byNode[int32(i)]
		switch {
		case reason != fits:
			row = &Row{Node: n.Name, Plugin: e.Plugin(reason), Reasons: e.Texts(reason)}
		case row == nil:
			row = &Row{Node: n.Name, Plugin: NodeAffinity, Reasons: []string{"node(s) didn't match Pod's node affinity/selector"}}
		}
		for _, score := range row.Scores {
			row.Total += score
		}
		rows = append(rows, *row)
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(index(a.Refused()), index(b.Refused())), cmp.Compare(b.Total, a.Total), cmp.Compare(a.Node, b.Node))
	})
	return rows, ""
}
