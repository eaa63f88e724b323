// SPDX-License-Identifier: Apache-2.0

package await

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// failing is a test that notes its end instead of ending.
type failing struct {
	testing.TB
	said string
}

func (*failing) Helper() {}

func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	panic(f)
}

func TestNilWaitsForTheCondition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, calls := time.Now(), 0
		Nil(t, time.Second, func() error {
			if calls++; time.Since(begin) < 500*time.Millisecond {
				return errors.New("not yet")
			}
			return nil
		})
		if took := time.Since(begin); took < 500*time.Millisecond || took > 500*time.Millisecond+interval {
			t.Errorf("waited %s for what was there after 500ms", took)
		}
		if calls < 2 {
			t.Errorf("%d looks", calls)
		}
	})
}

func TestNilGivesUpWithTheLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, calls := &failing{TB: t}, 0
		func() {
			defer func() {
				if recover() == nil {
					t.Error("it never gave up")
				}
			}()
			Nil(f, time.Second, func() error { calls++; return fmt.Errorf("look %d", calls) })
		}()
		if want := fmt.Sprintf("not within 1s: look %d", calls); f.said != want {
			t.Errorf("said %q, want %q", f.said, want)
		}
	})
}
