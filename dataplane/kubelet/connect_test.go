// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestConnectWaitsForARuntimeThatStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		got, err := connect(t.Context(), "container runtime", "unix:///x.sock", func(context.Context) (int, error) {
			if tries++; tries < 20 {
				return 0, errors.New("server is not initialized yet")
			}
			return 7, nil
		})
		if got != 7 || err != nil || tries != 20 {
			t.Errorf("got %d, %v after %d tries; want the client of the twentieth", got, err, tries)
		}
	})
}

func TestConnectEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := connect(ctx, "container runtime", "unix:///x.sock", func(context.Context) (int, error) { return 0, errors.New("refused") })
		if err == nil || !strings.Contains(err.Error(), "unix:///x.sock") || !strings.Contains(err.Error(), "refused") {
			t.Errorf("error %v, want it to name the endpoint and the reason", err)
		}
	})
}
