// SPDX-License-Identifier: Apache-2.0

// Package testcluster gives tests and benchmarks a cluster of the built executables in the sandbox, kubectl as its client, and load to put on it. Two runs on one machine
// do not meet when they have other names and ports: FAIRLEAD_E2E (first part of every sandbox's name) and FAIRLEAD_E2E_PORT (first of 400 ports).
package testcluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/fairlead/fairlead/hack/sandbox"
)

// Name is the name of the sandbox for what; "" is the first one.
func Name(what string) string {
	name := cmp.Or(os.Getenv("FAIRLEAD_E2E"), "e2e")
	if what != "" {
		name += "-" + what
	}
	return name
}

// Port is the offset'th of the ports of 127.0.0.1 that are this run's.
func Port(offset int) int {
	if first, err := strconv.Atoi(os.Getenv("FAIRLEAD_E2E_PORT")); err == nil {
		return first + offset
	}
	return 17443 + offset
}

// Root is the folder of the repository that the working directory is in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("the working directory is not in the repository")
}

// Open returns the handle of the sandbox for what, with the executables below root's bin. What an earlier run may have left of it is removed.
func Open(root, what string) (*sandbox.Sandbox, error) {
	s, err := sandbox.Open(sandbox.DefaultDir, Name(what))
	if err != nil {
		return nil, err
	}
	s.Bin = filepath.Join(root, "bin")
	return s, s.Down()
}

// New is Open for one test: the sandbox ends with it. What it was like is kept below out/test when the test fails.
func New(t testing.TB, what string) *sandbox.Sandbox {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(root, what)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := s.Load(); err == nil && t.Failed() {
			if err := Keep(s, root); err != nil {
				t.Log(err)
			}
		}
		if err := s.Down(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Keep writes logs, events and map dumps of s below root's out/test and says where.
func Keep(s *sandbox.Sandbox, root string) error {
	into := filepath.Join(root, "out", "test", s.Name)
	err := s.Collect(context.Background(), into)
	fmt.Fprintln(os.Stderr, "logs, events and map dumps are in", into)
	if err != nil {
		err = fmt.Errorf("collecting logs: %w", err)
	}
	return err
}

// Images are the image archives that `make images` built.
func Images(root string) ([]string, error) {
	images, err := filepath.Glob(filepath.Join(root, "out", "images", "*.tar"))
	if err == nil && len(images) == 0 {
		err = errors.New("no images below out/images: run make build images")
	}
	return images, err
}
