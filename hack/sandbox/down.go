// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const downPatience = 30 * time.Second

// Down ends every process of the sandbox and removes everything it made. A sandbox that is not there is no error.
func (s *Sandbox) Down() error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.remove(); err != nil {
		return err
	}
	return os.Remove(s.lockFile())
}

// remove is Down under the lock. Namespaces, links, mounts and BPF objects go with the last process that holds them.
func (s *Sandbox) remove() error {
	if err := removeCgroup(s.cgroup(), downPatience); err != nil {
		return err
	}
	return removeDir(s.Dir)
}

// removeDir removes dir unless something is still mounted below it: then files of a volume would be deleted through the mount.
func removeDir(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	top, err := device(dir)
	if err != nil {
		return err
	}
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if dev, err := device(p); err != nil || dev != top {
			return &fs.PathError{Op: "remove", Path: p, Err: errors.Join(err, errors.New("a file system is mounted there"))}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func device(path string) (uint64, error) {
	var st syscall.Stat_t
	err := syscall.Lstat(path, &st)
	return st.Dev, err
}

// alive reports whether any init of st still runs.
func (s *Sandbox) alive(st State) bool {
	for host := range st.Inits {
		if _, err := s.control(host, request{Verb: VerbStatus}); err == nil {
			return true
		}
	}
	return false
}
