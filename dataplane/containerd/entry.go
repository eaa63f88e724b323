// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/cmd/containerd/command"
	"github.com/containerd/containerd/v2/version"

	"github.com/fairlead/fairlead/dataplane/containerd/shim"
)

const (
	// DaemonName and ShimName are the names (argv[0]) under which the executable is containerd's daemon and its shim.
	DaemonName = "containerd"
	ShimName   = "containerd-shim-runc-v2"

	// entryEnv names the entry point where argv[0] cannot: the shim starts itself again through /proc/self/exe.
	entryEnv = "FAIRLEAD_ENTRY"
)

// Dispatch runs the daemon or the shim and returns its exit code when this process was started as one of them; else ran is false and
// nothing happened. It must be called first thing in main, before flags are declared: the shim parses the process's flags itself.
func Dispatch(args []string) (code int, ran bool) {
	name := filepath.Base(args[0])
	if env := os.Getenv(entryEnv); env == ShimName {
		name = env
	}
	switch name {
	case DaemonName:
		return Main(args), true
	case ShimName:
		return ShimMain(), true
	}
	return 0, false
}

// Main is containerd's daemon command line; args[0] is the program name.
func Main(args []string) int {
	version.Version = strings.TrimSuffix(version.Version, "+unknown") // said by a build that is not containerd's own
	if err := command.App().Run(context.Background(), append([]string{DaemonName}, args[1:]...)); err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		return 1
	}
	return 0
}

// ShimMain is the runc shim's command line, read from os.Args.
func ShimMain() int { return shim.Main() }
