// SPDX-License-Identifier: Apache-2.0

// Command flctl shows and explains what a node's datapath does. It reads the pinned maps and programs and the names file beside them, so it works with the agent down.
//
//	flctl lb list                     services as the kernel has them
//	flctl lb show default/web         one service, its frontends and backends
//	flctl ct list --service default/web
//	flctl map dump services -o json
//	flctl verify                      does the kernel hold what it should?
//
// Words are Kubernetes' and the kernel's; names come before numbers. Every list takes -o table|wide|json|yaml and --watch.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := newRoot(&environment{out: os.Stdout, err: os.Stderr}).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "flctl:", err)
		os.Exit(1)
	}
}
