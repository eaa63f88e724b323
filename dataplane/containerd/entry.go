// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/cmd/containerd/command"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
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
	if err := command.App().Run(context.Background(), append([]string{DaemonName}, args[1:]...)); err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		return 1
	}
	return 0
}

// ShimMain is the runc shim's command line, read from os.Args.
func ShimMain() int {
	// A shim starts every plugin that is registered in its process; the daemon's must not be among them.
	registry.Reset()
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   newTaskService,
	})
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2")) // exits the process on an error
	return 0
}

func newTaskService(ic *plugin.InitContext) (any, error) {
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	stop, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	return task.NewTaskService(ic.Context, publisher.(shim.Publisher), stop.(shutdown.Service))
}
