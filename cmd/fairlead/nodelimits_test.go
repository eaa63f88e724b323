// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/fairlead/fairlead/dataplane/kubelet"
)

func TestImageThresholds(t *testing.T) {
	for args, want := range map[string]struct {
		high, low int
		refused   bool
	}{
		"":                              {high: 85, low: 80},
		"--image-gc-high-threshold=100": {high: 100, low: 80},
		"--image-gc-high-threshold=60 --image-gc-low-threshold=50": {high: 60, low: 50},
		"--image-gc-high-threshold=80":                             {refused: true},
		"--image-gc-high-threshold=101":                            {refused: true},
		"--image-gc-low-threshold=-1":                              {refused: true},
	} {
		var l nodeLimits
		flags := pflag.NewFlagSet("node", pflag.ContinueOnError)
		l.register(flags)
		if err := flags.Parse(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		var c kubelet.Config
		err := l.apply(&c)
		if (err != nil) != want.refused || err == nil && (c.ImageGCHigh != want.high || c.ImageGCLow != want.low) {
			t.Errorf("%q: %d and %d, %v; want %+v", args, c.ImageGCHigh, c.ImageGCLow, err, want)
		}
	}
}
