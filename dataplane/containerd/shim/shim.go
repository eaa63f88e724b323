// SPDX-License-Identifier: Apache-2.0

// Package shim is containerd's runc shim: the small process that holds a pod's containers and outlives the daemon. It is a package of its
// own because a process of a few megabytes (cmd/fairlead-shim) can be it: one runs per pod.
package shim

import (
	"context"
	"flag"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// Main is the shim's command line, read from os.Args. It returns the exit code.
func Main() int {
	// A shim starts every plugin that is registered in its process; the daemon's must not be among them.
	registry.Reset()
	// Nor must the flags that other packages of this executable declare: the shim declares its own on the same set.
	flag.CommandLine = flag.NewFlagSet(os.Args[0], flag.ExitOnError)
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
