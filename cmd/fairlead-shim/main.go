// SPDX-License-Identifier: Apache-2.0

// Command fairlead-shim is the process that holds one pod's containers. fairlead can be it too, but is ten times as big: when this
// executable lies beside fairlead, the node uses it.
package main

import (
	"os"

	"github.com/fairlead/fairlead/dataplane/containerd/shim"
)

func main() { os.Exit(shim.Main()) }
