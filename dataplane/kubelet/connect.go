// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"time"

	"k8s.io/klog/v2"
)

const (
	connectInterval = 100 * time.Millisecond
	connectSay      = 10 * time.Second // between two messages about a runtime that is not there
)

// connect builds a client of one of the runtime's services, as often as it takes: a runtime that accepts connections may need a while until its
// services do, and one that is replaced or restarts is away for a moment. It fails only when ctx ends.
func connect[C any](ctx context.Context, what, endpoint string, build func(context.Context) (C, error)) (C, error) {
	var said time.Time
	for {
		client, err := build(ctx)
		if err == nil {
			return client, nil
		}
		if time.Since(said) >= connectSay {
			klog.FromContext(ctx).Info("Waiting until the "+what+" serves", "endpoint", endpoint, "reason", err.Error())
			said = time.Now()
		}
		select {
		case <-ctx.Done():
			var none C
			return none, fmt.Errorf("kubelet: %s at %s: %w", what, endpoint, err)
		case <-time.After(connectInterval):
		}
	}
}
