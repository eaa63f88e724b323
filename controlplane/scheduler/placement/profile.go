// SPDX-License-Identifier: Apache-2.0

package placement

import v1 "k8s.io/api/core/v1"

// Profile says which plugins are on, what they weigh and how they are set, for the pods of one schedulerName.
type Profile struct {
	SchedulerName string
	Filters       PluginSet
	Weights       [pluginCount]int64 // of scores; 0 is off

	// NodeResourcesFit
	IgnoredResources      map[string]bool
	IgnoredResourceGroups map[string]bool
	Strategy              Strategy
	StrategyResources     []ResourceWeight
	Shape                 []ShapePoint // of RequestedToCapacityRatio
	// NodeResourcesBalancedAllocation
	BalancedResources []ResourceWeight
	// NodeAffinity
	AddedAffinity *v1.NodeAffinity
	// InterPodAffinity
	HardPodAffinityWeight  int64
	IgnorePreferredOfOther bool
	// PodTopologySpread: the constraints of pods that have none. With SystemDefaults, a node without the label still counts for the others.
	DefaultConstraints []v1.TopologySpreadConstraint
	SystemDefaults     bool
	// DefaultPreemption
	Preemption             bool
	MinCandidatePercentage int
	MinCandidateAbsolute   int
}

// Strategy is how NodeResourcesFit scores.
type Strategy string

const (
	LeastAllocated           Strategy = "LeastAllocated"
	MostAllocated            Strategy = "MostAllocated"
	RequestedToCapacityRatio Strategy = "RequestedToCapacityRatio"
)

// ResourceWeight is one resource of a scoring strategy.
type ResourceWeight struct {
	Name   v1.ResourceName
	Weight int64
}

// ShapePoint maps a utilization in percent to a score of 0 to 100.
type ShapePoint struct{ Utilization, Score int64 }

// DefaultProfile is what Kubernetes does without configuration, plus Fairlead's factors.
func DefaultProfile() *Profile {
	p := &Profile{
		SchedulerName:          v1.DefaultSchedulerName,
		Strategy:               LeastAllocated,
		StrategyResources:      []ResourceWeight{{v1.ResourceCPU, 1}, {v1.ResourceMemory, 1}},
		BalancedResources:      []ResourceWeight{{v1.ResourceCPU, 1}, {v1.ResourceMemory, 1}},
		HardPodAffinityWeight:  1,
		SystemDefaults:         true,
		Preemption:             true,
		MinCandidatePercentage: 10,
		MinCandidateAbsolute:   100,
	}
	p.DefaultConstraints = SystemConstraints()
	for _, f := range []Plugin{SchedulingGates, NodeUnschedulable, NodeName, TaintToleration, NodeAffinity, NodePorts, NodeResourcesFit, VolumeRestrictions,
		NodeVolumeLimits, VolumeBinding, VolumeZone, PodTopologySpread, InterPodAffinity, DynamicResources, NodeDeclaredFeatures} {
		p.Filters = p.Filters.With(f)
	}
	for plugin, weight := range DefaultWeights {
		p.Weights[plugin] = weight
	}
	return p
}

// DefaultWeights are the weights of the scores that are on by default.
var DefaultWeights = map[Plugin]int64{
	TaintToleration: 3, NodeAffinity: 2, PodTopologySpread: 2, InterPodAffinity: 2, NodeResourcesFit: 1, NodeResourcesBalancedAllocation: 1,
	ImageLocality: 1, DataLocality: 2, Interference: 1,
}

// SystemConstraints are the topology spread constraints of pods of a controller or service that have none of their own.
func SystemConstraints() []v1.TopologySpreadConstraint {
	return []v1.TopologySpreadConstraint{
		{TopologyKey: v1.LabelHostname, WhenUnsatisfiable: v1.ScheduleAnyway, MaxSkew: 3},
		{TopologyKey: v1.LabelTopologyZone, WhenUnsatisfiable: v1.ScheduleAnyway, MaxSkew: 5},
	}
}
