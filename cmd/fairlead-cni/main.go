// SPDX-License-Identifier: Apache-2.0

// Command fairlead-cni is the CNI plugin executable. See docs/cni.md.
package main

import (
	"github.com/containernetworking/cni/pkg/skel"

	"github.com/fairlead/fairlead/cni/plugin"
)

func main() {
	skel.PluginMainFuncs(plugin.Funcs(), plugin.Versions, "fairlead-cni: CNI plugin of the Fairlead node agent; container runtimes run it, see docs/cni.md")
}
