// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/fairlead/fairlead/hack/await"
)

// serve starts a server and returns its address and what its client knows.
func serve(t *testing.T) (string, ClientConfig) {
	t.Helper()
	server, client, err := NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { _ = Serve(l, server) }()
	return l.Addr().String(), client
}

func dial(t *testing.T) *Client {
	t.Helper()
	addr, cfg := serve(t)
	c, err := Dial(t.Context(), addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRunKeepsStreamsDirectoryAndStatusApart(t *testing.T) {
	c := dial(t)
	dir := t.TempDir()
	var out, errOut bytes.Buffer
	command := Command{Args: []string{"/bin/sh", "-c", `pwd; cat; printf '%s|' "$@" >&2; exit 7`, "sh", "two words", "$HOME", "'"}, Dir: dir}
	err := c.Run(t.Context(), command, strings.NewReader("input"), &out, &errOut)
	if exit := ExitError(0); !errors.As(err, &exit) || exit != 7 {
		t.Errorf("error %v, want exit status 7", err)
	}
	if out.String() != dir+"\ninput" || errOut.String() != "two words|$HOME|'|" {
		t.Errorf("output %q and %q", out.String(), errOut.String())
	}
}

func TestRunWithInputThatDoesNotEnd(t *testing.T) {
	c := dial(t)
	in, w := io.Pipe()
	defer w.Close()
	if err := c.Run(t.Context(), Command{Args: []string{"/bin/true"}}, in, io.Discard, io.Discard); err != nil {
		t.Error(err)
	}
}

func TestRunOfWhatIsNotThere(t *testing.T) {
	c := dial(t)
	var errOut bytes.Buffer
	err := c.Run(t.Context(), Command{Args: []string{"/absent"}}, nil, io.Discard, &errOut)
	if exit := ExitError(0); !errors.As(err, &exit) || exit != notRun || !strings.Contains(errOut.String(), "/absent") {
		t.Errorf("error %v, said %q", err, errOut.String())
	}
	if err := c.Run(t.Context(), Command{}, nil, io.Discard, io.Discard); err == nil {
		t.Error("a command without a program ran")
	}
}

func TestRunOnATerminal(t *testing.T) {
	c := dial(t)
	var out bytes.Buffer
	command := Command{Args: []string{"/bin/sh", "-c", "test -t 0 && stty size"}, Terminal: &Size{Columns: 91, Rows: 37}}
	if err := c.Run(t.Context(), command, nil, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != "37 91" {
		t.Errorf("size of the terminal %q, want 37 91", got)
	}
}

func TestCommandEndsWithItsClient(t *testing.T) {
	c := dial(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	script := `trap 'touch ended; exit' TERM; touch begun; while :; do sleep 0.01; done`
	go func() {
		ended <- c.Run(ctx, Command{Args: []string{"/bin/sh", "-c", script}, Dir: dir}, nil, io.Discard, io.Discard)
	}()
	await.Nil(t, 10*time.Second, func() error { _, err := os.Stat(filepath.Join(dir, "begun")); return err })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	await.Nil(t, 10*time.Second, func() error { _, err := os.Stat(filepath.Join(dir, "ended")); return err })
}

func TestStrangersAreRefused(t *testing.T) {
	addr, cfg := serve(t)
	_, other, err := NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Dial(t.Context(), addr, ClientConfig{Seed: other.Seed, Server: cfg.Server}); err == nil {
		c.Close()
		t.Error("another client's key was taken")
	}
	if c, err := Dial(t.Context(), addr, ClientConfig{Seed: cfg.Seed, Server: other.Server}); err == nil {
		c.Close()
		t.Error("another server's key was taken")
	}
	if _, err := Dial(t.Context(), addr, ClientConfig{Seed: cfg.Seed[:5], Server: cfg.Server}); err == nil {
		t.Error("half a key was taken")
	}
}

func FuzzParseExec(f *testing.F) {
	f.Add(ssh.Marshal(execPayload{`{"args":["/bin/true"],"dir":"/"}`}))
	f.Add([]byte{0, 0, 0, 9})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if c, err := parseExec(payload); err == nil && len(c.Args) == 0 {
			t.Error("a command without a program")
		}
	})
}
