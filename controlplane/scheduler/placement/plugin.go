// SPDX-License-Identifier: Apache-2.0

package placement

// Plugin is one rule, under the name that Kubernetes' scheduler configuration uses for it.
type Plugin uint8

const (
	SchedulingGates Plugin = iota
	PrioritySort
	NodeUnschedulable
	NodeName
	TaintToleration
	NodeAffinity
	NodePorts
	NodeResourcesFit
	VolumeRestrictions
	NodeVolumeLimits
	VolumeBinding
	VolumeZone
	PodTopologySpread
	InterPodAffinity
	DynamicResources
	DefaultPreemption
	NodeResourcesBalancedAllocation
	ImageLocality
	DefaultBinder
	NodeDeclaredFeatures
	// What follows is Fairlead's own.
	DataLocality
	Interference
	StartDeadline
	pluginCount
)

var pluginNames = [pluginCount]string{
	"SchedulingGates", "PrioritySort", "NodeUnschedulable", "NodeName", "TaintToleration", "NodeAffinity", "NodePorts", "NodeResourcesFit",
	"VolumeRestrictions", "NodeVolumeLimits", "VolumeBinding", "VolumeZone", "PodTopologySpread", "InterPodAffinity", "DynamicResources",
	"DefaultPreemption", "NodeResourcesBalancedAllocation", "ImageLocality", "DefaultBinder", "NodeDeclaredFeatures",
	"DataLocality", "Interference", "StartDeadline",
}

func (p Plugin) String() string { return pluginNames[p] }

// PluginByName finds a plugin.
func PluginByName(name string) (Plugin, bool) {
	for i, n := range pluginNames {
		if n == name {
			return Plugin(i), true
		}
	}
	return 0, false
}

// Plugins lists all plugins in the order in which they are asked.
func Plugins() []Plugin {
	all := make([]Plugin, pluginCount)
	for i := range all {
		all[i] = Plugin(i)
	}
	return all
}

// PluginSet is a set of plugins.
type PluginSet uint32

// Has reports whether p is in the set.
func (s PluginSet) Has(p Plugin) bool { return s&(1<<p) != 0 }

// With returns the set with p.
func (s PluginSet) With(p Plugin) PluginSet { return s | 1<<p }

// Without returns the set without p.
func (s PluginSet) Without(p Plugin) PluginSet { return s &^ (1 << p) }

// MaxScore is the best score of one plugin before its weight.
const MaxScore = 100
