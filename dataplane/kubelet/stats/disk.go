// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// A directory is walked again when this many times as long as its last walk took have passed, at most maxStale later: counting costs at most a
// fiftieth of one CPU, and small directories are always fresh.
const (
	walkShare = 50
	maxStale  = time.Minute
)

// dirUse is what files below a directory take.
type dirUse struct {
	bytes, inodes uint64
	until         time.Time // when it is too old
}

func (u *dirUse) add(v dirUse) { u.bytes, u.inodes = u.bytes+v.bytes, u.inodes+v.inodes }

// dirUse counts what is below dir, or remembers it when counting is expensive.
func (c *Collector) dirUse(dir string) dirUse {
	now := time.Now()
	c.mu.Lock()
	kept, ok := c.known[dir]
	c.mu.Unlock()
	if ok && now.Before(kept.until) {
		return kept
	}
	use := countDir(dir)
	took := time.Since(now)
	use.until = now.Add(min(took*walkShare, maxStale))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[string]dirUse{}
	}
	for name, old := range c.known {
		if now.Sub(old.until) > maxStale {
			delete(c.known, name)
		}
	}
	if took*walkShare > time.Second { // else the memory costs more than the walk
		c.known[dir] = use
	}
	return use
}

// countDir counts the space and the inodes of what is below dir; other filesystems mounted there are not entered, and a file with several names
// counts once.
func countDir(dir string) (out dirUse) {
	if dir == "" || dir == "." {
		return out
	}
	var root unix.Stat_t
	if unix.Lstat(dir, &root) != nil {
		return out
	}
	linked := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		var stat unix.Stat_t
		if unix.Lstat(name, &stat) != nil {
			return nil
		}
		if stat.Dev != root.Dev {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if stat.Nlink > 1 && !entry.IsDir() {
			if linked[stat.Ino] {
				return nil
			}
			linked[stat.Ino] = true
		}
		out.bytes += uint64(stat.Blocks) * 512
		out.inodes++
		return nil
	})
	return out
}

// used is a path's filesystem with what one user of it has.
func used(path string, use dirUse) *statsapi.FsStats {
	out := Filesystem(path)
	if out != nil {
		out.UsedBytes, out.InodesUsed = &use.bytes, &use.inodes
	}
	return out
}

// SameFilesystem tells whether two paths are on one filesystem; what cannot be told counts as one.
func SameFilesystem(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) != nil || unix.Stat(b, &y) != nil || x.Dev == y.Dev
}
