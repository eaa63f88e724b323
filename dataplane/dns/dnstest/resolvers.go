// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

//go:embed resolve.c
var resolveSource []byte

//go:embed pairs.c
var pairsSource []byte

// Resolvers are programs that look names up as programs in pods do. The first two take COUNT NAME..., the third SERVER COUNT NAME; they print a Result.
type Resolvers struct {
	Glibc string // linked to the C library of this machine
	Musl  string // static
	Pairs string // A and AAAA at once from one port; static
}

// BuildResolvers compiles the programs in dir (Debian: clang-19, libc6-dev, musl-dev).
func BuildResolvers(dir string) (*Resolvers, error) {
	found, err := filepath.Glob("/usr/lib/*-linux-musl")
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("no musl to build with below /usr/lib (%v): install musl-dev", found)
	}
	musl := found[0]
	r := &Resolvers{Glibc: filepath.Join(dir, "glibc"), Musl: filepath.Join(dir, "musl"), Pairs: filepath.Join(dir, "pairs")}
	for _, p := range []struct {
		program string
		source  []byte
		static  bool
	}{{r.Glibc, resolveSource, false}, {r.Musl, resolveSource, true}, {r.Pairs, pairsSource, true}} {
		source := p.program + ".c"
		if err := os.WriteFile(source, p.source, 0o600); err != nil {
			return nil, err
		}
		args := []string{"-O2", "-Wno-unused-command-line-argument", "-o", p.program, source}
		if p.static {
			args = append(args, "-nostdinc", "-isystem", "/usr/include/"+filepath.Base(musl), "-nostdlib", "-static", musl+"/crt1.o", musl+"/crti.o", musl+"/libc.a", musl+"/crtn.o")
		}
		cmd := exec.Command("clang-19", args...)
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%v: %w (packages clang-19, libc6-dev and musl-dev?)\n%s", cmd.Args, err, text)
		}
	}
	return r, nil
}

// Result is what a program printed.
type Result struct {
	Lookups int64
	Failed  int64
	Slow    int64 // took as long as a repeated question
	Longest time.Duration
	Which   int64 // look-up took longest
}

// ParseResult reads what a program printed.
func ParseResult(out string) (r Result, err error) {
	var micros int64
	if _, err := fmt.Sscan(out, &r.Lookups, &r.Failed, &r.Slow, &micros, &r.Which); err != nil {
		return r, fmt.Errorf("a resolver's program says %q: %w", out, err)
	}
	r.Longest = time.Duration(micros) * time.Microsecond
	return r, nil
}
