// SPDX-License-Identifier: Apache-2.0

// Package await is how tests wait: on a condition, with a deadline, never for a time.
package await

import (
	"testing"
	"time"
)

// interval lies between two looks at a condition.
const interval = 20 * time.Millisecond

// Nil calls f until it returns nil. When that takes longer than patience the test ends with f's last error.
func Nil(t testing.TB, patience time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", patience, err)
		}
		time.Sleep(interval)
	}
}
