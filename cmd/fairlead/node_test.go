// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestNodeNameIsCheckedBeforeItIsUsed(t *testing.T) {
	for name, ok := range map[string]bool{"node-1": true, "node-1.example.com": true, "(none)": false, "Node": false, strings.Repeat("a", 254): false} {
		o := nodeOptions{name: name}
		got, err := o.nodeName()
		if (err == nil) != ok || ok && got != name {
			t.Errorf("name %q: %q, %v; want it accepted: %t", name, got, err, ok)
		}
		if err != nil && !strings.Contains(err.Error(), "--node-name") {
			t.Errorf("name %q: error %q does not say what to do", name, err)
		}
	}
}
