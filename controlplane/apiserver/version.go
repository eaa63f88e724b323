// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"runtime/debug"

	"k8s.io/apimachinery/pkg/version"
	utilcompatibility "k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/component-base/compatibility"
)

// KubernetesVersion is the version whose API is served: that of the k8s.io modules. Clients compare it with their own.
const KubernetesVersion = "v1.37.2"

// Version is what /version answers.
func Version() version.Info {
	return *effectiveVersion{utilcompatibility.DefaultBuildEffectiveVersion()}.Info()
}

// effectiveVersion corrects the library's version, which only a Kubernetes release build would have set.
type effectiveVersion struct{ compatibility.EffectiveVersion }

func (e effectiveVersion) Info() *version.Info {
	info := e.EffectiveVersion.Info()
	info.GitVersion = KubernetesVersion + "+fairlead"
	info.GitCommit, info.GitTreeState = "", ""
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, s := range build.Settings {
			switch s.Key {
			case "vcs.revision":
				info.GitCommit = s.Value
			case "vcs.time":
				info.BuildDate = s.Value
			case "vcs.modified":
				info.GitTreeState = map[string]string{"true": "dirty", "false": "clean"}[s.Value]
			}
		}
	}
	return info
}
