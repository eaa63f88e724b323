// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"crypto/rand"
	"fmt"
	"io"
	"time"
)

// progress prints a line a stage with the time it took.
type progress struct {
	out         io.Writer
	start, last time.Time
}

func newProgress(out io.Writer) *progress {
	now := time.Now()
	return &progress{out: out, start: now, last: now}
}

func (p *progress) done(what string) {
	now := time.Now()
	fmt.Fprintf(p.out, "%7.2fs  (+%5.2fs)  %s\n", now.Sub(p.start).Seconds(), now.Sub(p.last).Seconds(), what)
	p.last = now
}

// newToken returns a bootstrap token of the form [a-z0-9]{6}.[a-z0-9]{16}.
func newToken() (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz234567" // 32, so that a byte modulo 32 is even
	b := make([]byte, 22)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	for i := range b {
		b[i] = letters[b[i]%32]
	}
	return string(b[:6]) + "." + string(b[6:]), nil
}
