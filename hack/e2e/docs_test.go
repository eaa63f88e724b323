// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// block is a fenced block of shell commands in a page of the documentation. The line before it may say where it runs:
//
//	<!-- run: agent-1 -->        inside that host of the sandbox; without it on the machine, with KUBECONFIG and SANDBOX (its name) set
//	<!-- not run: REASON -->     not at all
type block struct {
	line    int
	on      string
	skip    string
	command string
}

var directive = regexp.MustCompile(`^<!-- (run|not run): (.+) -->$`)

// TestDocs runs the commands of every page, in their order. A command that fails fails its page.
func TestDocs(t *testing.T) {
	root := filepath.Dir(env.bin)
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		blocks, err := commandBlocks(page)
		if err != nil {
			t.Errorf("%s: %v", page, err)
			continue
		}
		if len(blocks) == 0 {
			continue
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			defer restoreSample(t)
			for _, b := range blocks {
				if b.skip == "" {
					runBlock(t, page, b)
				}
			}
		})
	}
}

// restoreSample deploys again what a page took away: a drained node's bare pods do not come back by themselves.
func restoreSample(t *testing.T) {
	t.Helper()
	kubectl(t, "apply", "-f", manifest)
	kubectl(t, "-n", "sample", "wait", "pod/client", "--for=condition=Ready", "--timeout=60s")
}

func runBlock(t *testing.T, page string, b block) {
	t.Helper()
	var out bytes.Buffer
	script := "set -euo pipefail\nexport PATH=" + env.bin + ":$PATH\n" + b.command
	var err error
	if b.on != "" {
		err = env.sandbox.Exec(t.Context(), b.on, []string{"bash", "-c", script}, nil, &out, &out)
	} else {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
		cmd.Dir, cmd.Stdout, cmd.Stderr = t.TempDir(), &out, &out
		cmd.Env = append(os.Environ(), "KUBECONFIG="+env.sandbox.Kubeconfig(), "SANDBOX="+env.sandbox.Name)
		err = cmd.Run()
	}
	if err != nil {
		t.Errorf("%s:%d: %v\n%s\n%s", filepath.Base(page), b.line, err, b.command, out.String())
	}
}

// loose is a command that would never be run because its block is not fenced as sh.
var loose = regexp.MustCompile(`^    (fairlead|flctl|kubectl|make|apt-get|ip) `)

// commandBlocks returns the blocks fenced as sh. A page with commands elsewhere is an error.
func commandBlocks(page string) ([]block, error) {
	b, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	var blocks []block
	var open *block
	var before string
	for i, line := range strings.Split(string(b), "\n") {
		switch {
		case open != nil && line == "```":
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.command += line + "\n"
		case loose.MatchString(line):
			return nil, fmt.Errorf("line %d: %q is not in a block fenced as sh", i+1, strings.TrimSpace(line))
		case line == "```sh":
			open = &block{line: i + 2}
			if m := directive.FindStringSubmatch(before); m != nil && m[1] == "run" {
				open.on = m[2]
			} else if m != nil {
				open.skip = m[2]
			}
		case strings.TrimSpace(line) != "":
			before = strings.TrimSpace(line)
		}
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: the block is not closed", open.line)
	}
	return blocks, nil
}
