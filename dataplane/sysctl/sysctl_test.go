// SPDX-License-Identifier: Apache-2.0

package sysctl

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadOnlyProcSys sets a parameter in a mount and network namespace of its own where /proc/sys is read-only, as container runtimes leave it.
func TestReadOnlyProcSys(t *testing.T) {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with this goroutine: its namespaces are of no use to others
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				return err
			}
			if err := unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				return err
			}
			if err := os.WriteFile(root+"/net/ipv4/conf/lo/rp_filter", []byte("2"), 0o644); !errors.Is(err, unix.EROFS) {
				return errors.New("the test's /proc/sys is not read-only")
			}
			if err := Ensure("net/ipv4/conf/lo/rp_filter", "2"); err != nil {
				return err
			}
			if v, err := os.ReadFile(root + "/net/ipv4/conf/lo/rp_filter"); err != nil || string(v) != "2\n" {
				return errors.New("the value was not set: " + string(v))
			}
			if err := Set("net/ipv4/conf/lo/no_such_thing", "1"); !errors.Is(err, os.ErrNotExist) {
				return errors.New("an unknown parameter was accepted")
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
