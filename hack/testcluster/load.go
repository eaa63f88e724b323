// SPDX-License-Identifier: Apache-2.0

package testcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fairlead/fairlead/hack/load"
	"github.com/fairlead/fairlead/hack/sandbox"
)

// Load is a running `fairlead sandbox load`.
type Load struct {
	what        string
	stop        *os.File // its end ends the load
	done        chan error
	out, errOut bytes.Buffer
}

// StartLoad sends requests to url from inside host: a node of s, or "client" outside the cluster. The load ends by itself after the --duration among args.
func StartLoad(ctx context.Context, s *sandbox.Sandbox, host, url string, args ...string) *Load {
	l := &Load{what: fmt.Sprintf("load from %s to %s", host, url), done: make(chan error, 1)}
	// A pipe of the kernel: the command is not waited for until this end of it is closed, as it would be with a reader of ours.
	stdin, stop, err := os.Pipe()
	if err != nil {
		l.done <- err
		return l
	}
	l.stop = stop
	command := append([]string{filepath.Join(s.Bin, "fairlead"), "sandbox", "load", "--here", "--until-eof", "-o", "json", "--url", url}, args...)
	go func() {
		defer stdin.Close()
		l.done <- s.Exec(ctx, host, command, stdin, &l.out, &l.errOut)
	}()
	return l
}

// End stops the load and says what became of it.
func (l *Load) End() (load.Result, error) {
	_ = l.stop.Close() // a second time is no harm
	return l.Wait()
}

// Wait is End when the load has ended by itself.
func (l *Load) Wait() (r load.Result, err error) {
	defer l.stop.Close()
	if err := <-l.done; err != nil {
		return r, fmt.Errorf("%s: %w: %s", l.what, err, l.errOut.String())
	}
	return r, json.Unmarshal(l.out.Bytes(), &r)
}
