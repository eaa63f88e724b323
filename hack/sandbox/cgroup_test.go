// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestControllersKeepsWhatNamesTheHierarchy(t *testing.T) {
	for options, want := range map[string]string{
		"rw,relatime,cpu,cpuacct":                            "cpu,cpuacct",
		"rw,nosuid,nodev,noexec,relatime,xattr,name=systemd": "name=systemd",
		"rw,relatime,memory,release_agent=/lib/agent":        "memory",
		"rw,noprefix,cpuset,clone_children":                  "cpuset",
	} {
		if got := controllers(options); got != want {
			t.Errorf("%s: %q, want %q", options, got, want)
		}
	}
}

func TestTokensHaveTheFormOfBootstrapTokensAndDiffer(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`)
	seen := map[string]bool{}
	for range 100 {
		token, err := newToken()
		if err != nil {
			t.Fatal(err)
		}
		if !form.MatchString(token) || seen[token] {
			t.Fatalf("token %q has the wrong form or came twice", token)
		}
		seen[token] = true
	}
}

func TestNamesThatWouldLeaveTheDirectoryAreRefused(t *testing.T) {
	for _, name := range []string{"", "..", ".hidden", "a/b", "../x"} {
		if _, err := Open("/tmp", name); err == nil {
			t.Errorf("name %q is accepted", name)
		}
	}
}

func TestDamagedStateSaysWhatToDo(t *testing.T) {
	s, err := Open(t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); err != ErrNotUp {
		t.Errorf("no state: %v, want ErrNotUp", err)
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.save(State{APIPort: 17}); err != nil {
		t.Fatal(err)
	}
	if st, err := s.Load(); err != nil || st.APIPort != 17 {
		t.Errorf("read back %+v, %v", st, err)
	}
	if err := os.WriteFile(s.stateFile(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); err == nil || !strings.Contains(err.Error(), "sandbox down") {
		t.Errorf("damaged state: %v, want it to say what to do", err)
	}
}
