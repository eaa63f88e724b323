// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"
	"slices"
	"strings"
)

// Reason says why a node was refused. The zero Reason means that it was not.
type Reason int32

const (
	fits Reason = iota
	// absent marks a place in the node array that holds no node. It is no node's reason and is never counted.
	absent
)

// reasonInfo is what a Reason stands for.
type reasonInfo struct {
	plugin       Plugin
	texts        []string // one per thing that is missing, in Kubernetes' wording
	unresolvable bool     // removing pods from the node would not help
}

// reasons interns reasons, so that a node's verdict is one number.
type reasons struct {
	infos []reasonInfo
	byKey map[string]Reason
}

func newReasons() *reasons {
	return &reasons{infos: make([]reasonInfo, absent+1), byKey: map[string]Reason{}}
}

func (r *reasons) intern(p Plugin, unresolvable bool, texts ...string) Reason {
	key := fmt.Sprintf("%d\x00%t\x00%s", p, unresolvable, strings.Join(texts, "\x00"))
	if id, ok := r.byKey[key]; ok {
		return id
	}
	id := Reason(len(r.infos))
	r.infos = append(r.infos, reasonInfo{plugin: p, texts: slices.Clone(texts), unresolvable: unresolvable})
	r.byKey[key] = id
	return id
}

// Plugin returns who refused.
func (e *Evaluator) Plugin(r Reason) Plugin { return e.reasons.infos[r].plugin }

// Texts returns the words of a reason.
func (e *Evaluator) Texts(r Reason) []string { return e.reasons.infos[r].texts }

// Unresolvable reports whether preemption cannot remove the reason.
func (e *Evaluator) Unresolvable(r Reason) bool { return e.reasons.infos[r].unresolvable }

// Diagnosis says why no node was found.
type Diagnosis struct {
	Nodes    int // how many nodes there are
	Counts   map[Reason]int
	Rejected PluginSet // plugins that refused some node, and that an event must concern to make another try worthwhile
	// Blocked is set when the pod could go nowhere whatever the nodes are like, e.g. because its claim does not exist.
	Blocked string
}

// Message is the text of the pod's condition and event.
func (e *Evaluator) Message(d *Diagnosis) string {
	if d.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	if d.Blocked != "" {
		return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, d.Blocked)
	}
	byText := map[string]int{}
	for r, n := range d.Counts {
		for _, text := range e.Texts(r) {
			byText[text] += n
		}
	}
	return nodesUnavailable(d.Nodes, byText)
}

// nodesUnavailable lists texts with their counts, sorted as strings like Kubernetes does.
func nodesUnavailable(nodes int, byText map[string]int) string {
	parts := make([]string, 0, len(byText))
	for text, n := range byText {
		parts = append(parts, fmt.Sprintf("%d %s", n, text))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
}
