// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestSandboxHelpShowsExamples: every verb has examples, and their words and flags exist.
func TestSandboxHelpShowsExamples(t *testing.T) {
	root := &cobra.Command{Use: "fairlead"}
	root.AddCommand(newSandboxCommand())
	verbs := 0
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.Hidden || c == root {
			return
		}
		verbs++
		if !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("the examples of %q do not show it:\n%s", c.CommandPath(), c.Example)
		}
		for line := range strings.Lines(c.Example) {
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "fairlead" {
				continue
			}
			for i, w := range words {
				if w == ">" || w == "--" {
					words = words[:i]
					break
				}
			}
			found, args, err := root.Find(words[1:])
			if err != nil || found == root {
				t.Errorf("example %q: no such command (%v)", line, err)
				continue
			}
			if err := found.ParseFlags(args); err != nil {
				t.Errorf("example %q: %v", line, err)
			}
		}
	}
	walk(root)
	if verbs < 15 {
		t.Errorf("%d commands found, want all of them", verbs)
	}
}

func TestSandboxLoadRefusesUnknownOutput(t *testing.T) {
	cmd := newSandboxCommand()
	cmd.SetArgs([]string{"load", "--url=http://192.0.2.1/", "-o", "yaml"})
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "want json or hdr") {
		t.Errorf("error %v, want it to name the formats", err)
	}
}
