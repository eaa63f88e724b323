// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProgramPages(t *testing.T) {
	for _, c := range []struct {
		name, line string
		ok         bool
	}{
		{"code of the program", "00400000-02fc9000 r-xp 00000000 08:01 1234 /usr/bin/fairlead\n", true},
		{"its constants", "02fc9000-05000000 r--p 02bc9000 08:01 1234 /usr/bin/fairlead\n", true},
		{"its variables", "05000000-05100000 rw-p 04c00000 08:01 1234 /usr/bin/fairlead\n", false},
		{"another file", "7f0000000000-7f0000001000 r-xp 00000000 08:01 99 /lib/libc.so\n", false},
		{"a file that was replaced", "00400000-02fc9000 r-xp 00000000 08:01 1234 /usr/bin/fairlead (deleted)\n", false},
		{"memory of no file", "c000000000-c000400000 rw-p 00000000 00:00 0\n", false},
		{"no range", "00400000 r-xp 00000000 08:01 1234 /usr/bin/fairlead\n", false},
	} {
		from, to, ok := programPages(c.line, "/usr/bin/fairlead")
		if ok != c.ok || ok && from >= to {
			t.Errorf("%s: %x-%x, %t; want %t", c.name, from, to, ok, c.ok)
		}
	}
	from, to, _ := programPages("00400000-02fc9000 r-xp 00000000 08:01 1234 /usr/bin/fairlead\n", "/usr/bin/fairlead")
	if from != 0x400000 || to != 0x2fc9000 {
		t.Errorf("read %x-%x, want 400000-2fc9000", from, to)
	}
	// The second one was relocated and then protected, the last one written and swapped out: thrown away, they would come back as they are in the file.
	smaps := ""
	for i, private := range []string{"Anonymous: 0 kB\nSwap: 0 kB", "Anonymous: 12 kB\nSwap: 0 kB", "Anonymous: 0 kB\nAnonHugePages: 4 kB\nSwap: 0 kB", "Anonymous: 0 kB\nSwap: 8 kB"} {
		smaps += fmt.Sprintf("%d000-%d800 r--p 00000000 08:01 1234 /usr/bin/fairlead\nSize: 8 kB\nRss: 8 kB\n%s\nVmFlags: rd mr mw me sd\n", i+1, i+1, private)
	}
	if got, want := unchanged(smaps+"9000-9800 rw-p 00000000 00:00 0\nAnonymous: 8 kB\n", "/usr/bin/fairlead"), []mapping{{0x1000, 0x1800}, {0x3000, 0x3800}}; !slices.Equal(got, want) {
		t.Errorf("given back: %x, want %x", got, want)
	}
}

func TestPagesOfTheStartAreGivenBack(t *testing.T) {
	touchProgram(t)
	before := fileMemory(t)
	if err := unmapIdle(); err != nil {
		t.Fatal(err)
	}
	if after := fileMemory(t); after >= before {
		t.Errorf("%d kB of files are mapped, %d kB were before", after, before)
	}
}

// touchProgram maps every page of this program that it only reads.
func touchProgram(t *testing.T) {
	t.Helper()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range unchanged(string(smaps), self) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_POPULATE_READ); errno != 0 {
			t.Fatal(errno)
		}
	}
}

// fileMemory is how much of files this process has mapped, in kB (RssFile in proc(5)).
func fileMemory(t *testing.T) (kilobytes int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(status), "RssFile:")
	if _, err := fmt.Sscan(rest, &kilobytes); !found || err != nil {
		t.Fatalf("no RssFile in /proc/self/status: %v", err)
	}
	return kilobytes
}
