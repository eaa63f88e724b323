// SPDX-License-Identifier: Apache-2.0

// Package queue keeps the deletions that a runtime asked for while the node agent was down.
//
// It is a directory with a lock file and one small JSON file per attachment. The lock orders the two sides so that no deletion falls between them: the plugin holds
// it shared while it tries the agent a last time and, failing that, writes its file; the agent holds it exclusively from before its socket answers until the
// directory is drained. So either the plugin sees a listening agent, or the agent sees the plugin's file.
package queue

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MaxEntries bounds the directory: a runtime that keeps deleting while no agent ever returns must not fill the disk.
const MaxEntries = 20000

// Entry is one deletion.
type Entry struct {
	ContainerID string    `json:"containerID"`
	IfName      string    `json:"ifName"`
	Network     string    `json:"network"`
	Time        time.Time `json:"time"`
}

// Dir is a queue's directory.
type Dir string

// Lock is a held lock; Close releases it.
type Lock struct{ f *os.File }

// Close releases the lock.
func (l *Lock) Close() error { return l.f.Close() }

// Lock waits for the lock until ctx ends: exclusive for the agent, shared for plugins. It makes the directory when it is missing.
func (d Dir) Lock(ctx context.Context, exclusive bool) (*Lock, error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("make the deletion queue: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(string(d), "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the deletion queue's lock: %w", err)
	}
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return &Lock{f}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock the deletion queue: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock the deletion queue: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (d Dir) path(e Entry) string {
	sum := sha256.Sum256([]byte(e.Network + "\x00" + e.ContainerID + "\x00" + e.IfName))
	return filepath.Join(string(d), fmt.Sprintf("%x.json", sum[:16]))
}

// Put writes e durably. Putting the same attachment again is one entry. The caller holds the lock.
func (d Dir) Put(e Entry) error {
	if names, err := os.ReadDir(string(d)); err == nil && len(names) > MaxEntries {
		return fmt.Errorf("the deletion queue %s holds %d entries already: start the node agent", d, len(names))
	}
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(string(d), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), d.path(e))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("queue a deletion: %w", err)
	}
	return nil
}

// Drain calls del for every entry and removes those for which it returns nil. The caller holds the exclusive lock. A file that is not an entry is removed:
// nothing else writes here, so it is a torn one, and the agent's own sweep finds what it stood for.
func (d Dir) Drain(del func(Entry) error) error {
	names, err := os.ReadDir(string(d))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	var errs []error
	for _, n := range names {
		if n.Name() == "lock" {
			continue
		}
		path := filepath.Join(string(d), n.Name())
		var e Entry
		body, err := os.ReadFile(path)
		if err == nil && strings.HasSuffix(n.Name(), ".json") && json.Unmarshal(body, &e) == nil && e.ContainerID != "" {
			if err := del(e); err != nil {
				errs = append(errs, fmt.Errorf("queued deletion of %s/%s: %w", e.ContainerID, e.IfName, err))
				continue
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
