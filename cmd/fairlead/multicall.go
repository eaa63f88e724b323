// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"

	"github.com/fairlead/fairlead/dataplane/containerd"
	"github.com/fairlead/fairlead/dataplane/dns/nameserver"
)

// runMultiCall runs the program that this process was started as by name (containerd, its shim, the node's DNS server) and does not return then. It comes before anything
// else in main: those programs parse the process's arguments themselves.
func runMultiCall(args []string) {
	if code, ran := containerd.Dispatch(args); ran {
		os.Exit(code)
	}
	if filepath.Base(args[0]) == nameserver.Name {
		os.Exit(nameserver.Main())
	}
}
