// SPDX-License-Identifier: Apache-2.0

package endpoint

// Step names a moment between two changes that an ADD or a DEL makes on the node. Wherever the agent dies, the next one takes on what is whole and removes the rest.
type Step string

// The steps of an ADD, in their order; a pod with two addresses passes AddEntry and AddRoute twice.
const (
	AddAddresses Step = "add: addresses allocated"
	AddFile      Step = "add: file written"
	AddPair      Step = "add: pair made"
	AddFilters   Step = "add: filters attached"
	AddHostSide  Step = "add: host side configured"
	AddPodSide   Step = "add: container side configured"
	AddFinished  Step = "add: file finished"
	AddEntry     Step = "add: endpoint entry written"
	AddLink      Step = "add: one link pinned" // here in a chain; after the answer where the filters were first
	AddLinks     Step = "add: links pinned"
	AddRoute     Step = "add: route made"
	AddAnswer    Step = "add: answer ready"
	AddSettled   Step = "add: filters removed" // after the answer
)

// The steps of a DEL, in their order; a pod with two addresses passes DelEntry twice.
const (
	DelDevice    Step = "del: device removed"
	DelLinks     Step = "del: links unpinned"
	DelEntry     Step = "del: endpoint entry removed"
	DelLimits    Step = "del: limits removed"
	DelAddresses Step = "del: addresses released"
	DelFile      Step = "del: file removed"
	DelAnswer    Step = "del: answer ready"
)

func (c *Config) step(s Step) {
	if c.OnStep != nil {
		c.OnStep(s)
	}
}
