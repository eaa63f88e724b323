// SPDX-License-Identifier: Apache-2.0

// Package containerlogs keeps containers' logs from filling the disk: a log over its size is renamed and the runtime opens a new one;
// older ones are compressed, and the oldest go.
package containerlogs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	stampFormat = "20060102-150405"
	compressed  = ".gz"
	partial     = ".tmp"
)

// Rotator rotates logs. Reopen asks the runtime to open a container's log anew.
type Rotator struct {
	MaxSize  int64
	MaxFiles int // with the one being written
	Reopen   func(ctx context.Context, containerID string) error
	Now      func() time.Time
}

// Rotate turns the log over when it is larger than it may be. A log that does not exist is no error.
func (r Rotator) Rotate(ctx context.Context, containerID, log string) error {
	info, err := os.Stat(log)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || info.Size() < r.MaxSize {
		return err
	}
	older, err := r.older(log)
	if err != nil {
		return err
	}
	for _, name := range older {
		if strings.HasSuffix(name, partial) { // of a compression that was cut off
			if err := os.Remove(name); err != nil {
				return err
			}
			continue
		}
		if !strings.HasSuffix(name, compressed) {
			if err := compress(name); err != nil {
				return fmt.Errorf("compress log %s: %w", name, err)
			}
		}
	}
	if older, err = r.older(log); err != nil {
		return err
	}
	for len(older) > max(r.MaxFiles-2, 0) { // room for the current one and the one about to be
		if err := os.Remove(older[0]); err != nil {
			return err
		}
		older = older[1:]
	}
	rotated := log + "." + r.Now().Format(stampFormat)
	if err := os.Rename(log, rotated); err != nil {
		return err
	}
	if err := r.Reopen(ctx, containerID); err != nil {
		return errors.Join(fmt.Errorf("reopen log %s: %w", log, err), os.Rename(rotated, log))
	}
	return nil
}

// older lists earlier logs, the oldest first: their names end in their time.
func (r Rotator) older(log string) ([]string, error) {
	names, err := filepath.Glob(globEscape(log) + ".*")
	slices.Sort(names)
	return names, err
}

var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

func globEscape(name string) string { return globEscaper.Replace(name) }

func compress(name string) (err error) {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	temporary := name + compressed + partial
	out, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, copyErr := io.Copy(z, in)
	if err := errors.Join(copyErr, z.Close(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	if err := os.Rename(temporary, name+compressed); err != nil {
		return err
	}
	return os.Remove(name)
}
