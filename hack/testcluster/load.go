// SPDX-License-Identifier: Apache-2.0

package testcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/fairlead/fairlead/hack/load"
	"github.com/fairlead/fairlead/hack/sandbox"
)

// Load is a running `fairlead sandbox load`.
type Load struct {
	what        string
	stop        func() error
	done        chan error
	out, errOut bytes.Buffer
}

// StartLoad sends requests to url from inside host: a node of s, or "client" outside the cluster. The load ends by itself after the --duration among args.
func StartLoad(ctx context.Context, s *sandbox.Sandbox, host, url string, args ...string) *Load {
	stdin, stop := io.Pipe()
	l := &Load{what: fmt.Sprintf("load from %s to %s", host, url), stop: stop.Close, done: make(chan error, 1)}
	command := append([]string{filepath.Join(s.Bin, "fairlead"), "sandbox", "load", "--here", "--until-eof", "-o", "json", "--url", url}, args...)
	go func() { l.done <- s.Exec(ctx, host, command, stdin, &l.out, &l.errOut) }()
	return l
}

// End stops the load and says what became of it.
func (l *Load) End() (load.Result, error) {
	_ = l.stop() // it never fails
	return l.Wait()
}

// Wait is End when the load has ended by itself.
func (l *Load) Wait() (r load.Result, err error) {
	if err := <-l.done; err != nil {
		return r, fmt.Errorf("%s: %w: %s", l.what, err, l.errOut.String())
	}
	return r, json.Unmarshal(l.out.Bytes(), &r)
}
