// SPDX-License-Identifier: Apache-2.0

// Package memory gives the machine back what a process of Fairlead needs no more: freed heap, and the pages of the program's own file that only the start used.
package memory

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	nodeGC    = 50               // percent of what is alive: a node's memory is for its pods
	startTime = 10 * time.Second // after which a node's process has listed and programmed what it finds
)

// ForNode sets a node's process up: garbage is collected early, unless GOGC in the environment says otherwise, and what the start used is given back a while later,
// unless ctx has ended.
func ForNode(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(nodeGC)
	}
	go func() {
		select {
		case <-time.After(startTime):
			GiveBack(ctx)
		case <-ctx.Done():
		}
	}()
}

// GiveBack gives back what is not needed at the moment. It collects garbage, which takes tens of milliseconds for each 100 MB alive.
func GiveBack(ctx context.Context) {
	debug.FreeOSMemory()
	if err := unmapIdle(); err != nil {
		klog.FromContext(ctx).V(2).Info("Pages of the program that are not used stay mapped", "err", err)
	}
}

// unmapIdle takes the pages of the program's file out of this process. Two thirds of them were needed by the start alone; those in use come back from the
// page cache one small fault each.
func unmapIdle() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	for _, m := range unchanged(string(smaps), self) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise %x-%x: %w", m.from, m.to, errno)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

// unchanged returns the mappings of file in smaps (proc(5)) whose pages come back as they were: they cannot be written, and none was. A dynamic linker
// writes to some before it protects them, in a program that was linked with C.
func unchanged(smaps, file string) (all []mapping) {
	ours := false // whether the lines are about the last one of all
	for line := range strings.Lines(smaps) {
		f := strings.Fields(line)
		switch {
		case len(f) >= 5 && !strings.HasSuffix(f[0], ":"):
			var m mapping
			if m.from, m.to, ours = programPages(line, file); ours {
				all = append(all, m)
			}
		case ours && len(f) >= 2 && (f[0] == "Anonymous:" || f[0] == "Swap:") && f[1] != "0":
			all, ours = all[:len(all)-1], false
		}
	}
	return all
}

// programPages reads the head of a mapping, "from-to perms offset device inode path" (proc(5)), and reports whether it is of file and cannot be written.
func programPages(line, file string) (from, to uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) != 6 || f[5] != file || len(f[1]) != 4 || f[1][1] != '-' {
		return 0, 0, false
	}
	a, b, found := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(a, 16, 64)
	end, err2 := strconv.ParseUint(b, 16, 64)
	if !found || err1 != nil || err2 != nil || start >= end {
		return 0, 0, false
	}
	return uintptr(start), uintptr(end), true
}
