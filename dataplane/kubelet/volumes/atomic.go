// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// File is one file of a volume made from the API.
type File struct {
	Data []byte
	Mode os.FileMode
	UID  *int64
}

const dataLink = "..data"

// WriteAtomically makes dir hold exactly files (by relative path): readers see all old or all new content. The files are in a directory
// of their own that ..data points to, and every top-level name is a link through ..data; replacing ..data is one rename.
// It changes nothing when dir already has this content. gid, when not nil, owns the files.
func WriteAtomically(dir string, files map[string]File, gid *int64) error {
	for name := range files {
		if err := checkName(name); err != nil {
			return err
		}
	}
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if current != "" && same(filepath.Join(dir, current), files) {
		return linkNames(dir, files)
	}
	next, err := os.MkdirTemp(dir, "..2")
	if err != nil {
		return err
	}
	if err := fill(next, files, gid); err != nil {
		return errors.Join(err, os.RemoveAll(next))
	}
	temporary := filepath.Join(dir, dataLink+"_tmp")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(next), temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := linkNames(dir, files); err != nil {
		return err
	}
	return removeOld(dir, filepath.Base(next))
}

func checkName(name string) error {
	if name == "" || path.IsAbs(name) || len(name) > 4096 || slices.Contains(strings.Split(name, "/"), "..") || strings.HasPrefix(name, "..") {
		return fmt.Errorf("path %q may not be absolute or contain '..'", name)
	}
	return nil
}

func fill(dir string, files map[string]File, gid *int64) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if gid != nil {
		if err := os.Chown(dir, -1, int(*gid)); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file, target := files[name], filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, file.Data, file.Mode); err != nil {
			return err
		}
		if err := os.Chmod(target, file.Mode); err != nil { // whatever the umask
			return err
		}
		uid, group := -1, -1
		if file.UID != nil {
			uid = int(*file.UID)
		}
		if gid != nil {
			group = int(*gid)
		}
		if uid >= 0 || group >= 0 {
			if err := os.Chown(target, uid, group); err != nil {
				return err
			}
		}
	}
	return nil
}

// same tells whether the directory holds exactly these files.
func same(dir string, files map[string]File) bool {
	count := 0
	err := filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		file, ok := files[relative]
		if !ok {
			return errDiffers
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Size() != int64(len(file.Data)) || info.Mode().Perm() != file.Mode.Perm() {
			return errDiffers
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, file.Data) {
			return errDiffers
		}
		count++
		return nil
	})
	return err == nil && count == len(files)
}

var errDiffers = errors.New("content differs")

// linkNames makes the links of top-level names and removes those that are no more.
func linkNames(dir string, files map[string]File) error {
	wanted := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		wanted[top] = true
	}
	for name := range wanted {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if name := entry.Name(); !wanted[name] && !strings.HasPrefix(name, "..") && entry.Type()&os.ModeSymlink != 0 {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeOld removes directories of earlier content, also those a crash left.
func removeOld(dir, current string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if name := entry.Name(); entry.IsDir() && strings.HasPrefix(name, "..2") && name != current {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
