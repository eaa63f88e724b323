// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/fairlead/fairlead/dataplane/containerd"
)

// runMultiCall runs the program that this process was started as by name (containerd, its shim) and does not return then. It comes before anything
// else in main: those programs parse the process's arguments themselves.
func runMultiCall(args []string) {
	if code, ran := containerd.Dispatch(args); ran {
		os.Exit(code)
	}
}
