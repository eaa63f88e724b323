// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// Starting makes four times the garbage of what stays (OpenAPI documents, default objects). It is collected once, afterwards, and its memory is
// given back; a running control plane then keeps less spare heap than Go's default. GOGC in the environment is respected.
const (
	startGC   = 400
	runningGC = 50
	// settleAfter is when the last work of the start (OpenAPI and discovery documents) is over.
	settleAfter = 5 * time.Second
)

// easeStart defers garbage collection. The returned function ends that, a while later unless ctx ends before.
func easeStart() (settle func(ctx context.Context)) {
	if os.Getenv("GOGC") != "" {
		return func(context.Context) {}
	}
	debug.SetGCPercent(startGC)
	restore := sync.OnceFunc(func() { debug.SetGCPercent(runningGC) })
	return func(ctx context.Context) {
		defer restore()
		t := time.NewTimer(settleAfter)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
			restore()
			debug.FreeOSMemory()
		}
	}
}
