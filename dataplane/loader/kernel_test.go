// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckKernel(t *testing.T) {
	for release, ok := range map[string]bool{
		"4.18.0-553.el8.x86_64": false, "5.4.0-216-generic": false, "5.9.16": false, "3.10.0": false,
		"5.10.0-30-amd64": true, "5.15.0": true, "6.1.0-rc1": true, "10.0.0": true, "unreadable": true,
	} {
		err := checkKernel(release)
		if ok != (err == nil) {
			t.Errorf("%s: %v", release, err)
		}
		if err != nil && (!errors.Is(err, ErrKernelTooOld) || !strings.Contains(err.Error(), release) || !strings.Contains(err.Error(), MinKernel)) {
			t.Errorf("%s: the error says neither what is there nor what is needed: %v", release, err)
		}
	}
}
