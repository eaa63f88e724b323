// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStartOutlivesItsCaller: a start goes on when its caller is gone, a second caller has the same answer, and other calls end with their callers.
func TestStartOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &starts{running: map[string]*pendingStart{}}
		release, calls := make(chan struct{}), 0
		failure := errors.New("its own answer")
		handler := func(ctx context.Context, _ any) (any, error) {
			calls++
			select {
			case <-release:
				return &runtimeapi.StartContainerResponse{}, failure
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		request := &runtimeapi.StartContainerRequest{ContainerId: "c"}
		answers := make(chan error, 2)
		call := func(ctx context.Context, request any) {
			go func() {
				_, err := s.intercept(ctx, request, &grpc.UnaryServerInfo{}, handler)
				answers <- err
			}()
			synctest.Wait()
		}

		first, die := context.WithCancel(t.Context())
		call(first, request)
		die()
		if err := <-answers; status.Code(err) != codes.Canceled {
			t.Errorf("the caller that died was told %v", err)
		}
		call(t.Context(), request)
		if calls != 1 {
			t.Errorf("the container was started %d times", calls)
		}
		close(release)
		if err := <-answers; !errors.Is(err, failure) {
			t.Errorf("the second caller was told %v", err)
		}
		synctest.Wait()
		if len(s.running) != 0 {
			t.Errorf("still under way: %v", s.running)
		}

		release = nil // never
		began := time.Now()
		call(t.Context(), request)
		if err := <-answers; !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != startLimit {
			t.Errorf("a start that hangs was given up after %v: %v", time.Since(began), err)
		}
		other, end := context.WithCancel(t.Context())
		call(other, &runtimeapi.StopContainerRequest{ContainerId: "c"})
		end()
		if err := <-answers; !errors.Is(err, context.Canceled) {
			t.Errorf("another call whose caller died: %v", err)
		}
	})
}
