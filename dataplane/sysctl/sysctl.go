// SPDX-License-Identifier: Apache-2.0

// Package sysctl sets kernel parameters of the calling process's network namespace.
//
// Container runtimes mount /proc/sys read-only into containers that are not privileged, also where they share the host's network namespace. A process with
// CAP_SYS_ADMIN may make its own mount of it writable again; that is done when the first write asks for it and changes nothing outside the process's mount namespace.
package sysctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const root = "/proc/sys"

// Set writes value to key, a path below /proc/sys. A parameter that this kernel lacks is an error that wraps os.ErrNotExist.
func Set(key, value string) error {
	path := filepath.Join(root, key)
	err := os.WriteFile(path, []byte(value), 0o644)
	if errors.Is(err, unix.EROFS) {
		if merr := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); merr != nil {
			return fmt.Errorf("set %s=%s: %s is read-only here and cannot be made writable (needs CAP_SYS_ADMIN and no AppArmor profile against mounts): %w", key, value, root, merr)
		}
		err = os.WriteFile(path, []byte(value), 0o644)
	}
	if err != nil {
		return fmt.Errorf("set %s=%s: %w", key, value, err)
	}
	return nil
}

// Ensure is Set unless key has value already.
func Ensure(key, value string) error {
	have, err := os.ReadFile(filepath.Join(root, key))
	if err == nil && string(have) == value+"\n" {
		return nil
	}
	return Set(key, value)
}
