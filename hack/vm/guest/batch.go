// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Lines on the console by which Batch reports.
const (
	ExitPrefix = "vm-exit " // followed by a program's name and its exit status
	DoneLine   = "vm-done"
)

// CommandList is the file of the image that lists what Batch runs: NAME PROGRAM ARGUMENT... a line.
const CommandList = "/commands"

var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp"}

// Batch runs every command of the image, reports each exit status and powers the machine off. It does not return.
func Batch() {
	if err := batch(); err != nil {
		fmt.Println("init:", err)
	} else {
		fmt.Println(DoneLine)
	}
	powerOff()
}

func batch() error {
	if err := copyRoot(); err != nil {
		return fmt.Errorf("switch to a root that can be pivoted: %w", err)
	}
	if err := becomeHost(); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	f, err := os.Open(CommandList)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		words := strings.Fields(s.Text())
		if len(words) < 2 {
			continue
		}
		fmt.Printf("vm-start %s\n", words[0])
		fmt.Printf("\n%s%s %d\n", ExitPrefix, words[0], execute(words[1:]))
	}
	return s.Err()
}

// execute runs a command with its directory as working directory and returns its exit status.
func execute(words []string) int {
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = filepath.Dir(words[0])
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.Env = environment
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Println("init:", err)
	return 127
}
