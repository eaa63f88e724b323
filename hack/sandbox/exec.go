// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
)

// ExitError is the exit status of a command that ran in a host.
type ExitError int

func (e ExitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Exec runs command inside host, in all its namespaces and its cgroup, and waits for it. A command that fails gives an ExitError.
func (s *Sandbox) Exec(ctx context.Context, host string, command []string, stdin io.Reader, stdout, stderr io.Writer) error {
	pid, err := s.InitPid(host)
	if err != nil {
		return err
	}
	// nsenter(1) is part of every Debian system; entering a mount and a pid namespace from a threaded process is not possible in place.
	args := append([]string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}, command...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.Dir = "/"
	err = runInCgroup(cmd, filepath.Join(s.hostCgroup(host), systemCgroup))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return ExitError(exit.ExitCode())
	}
	return err
}

// runInCgroup runs cmd in path of the cgroup2 hierarchy, where the host's socket hooks see it.
func runInCgroup(cmd *exec.Cmd, path string) error {
	dir, err := openCgroup(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	placeInCgroup(cmd, dir)
	return cmd.Run()
}
