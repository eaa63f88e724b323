// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Locate finds what image names: a kernel's file, with its modules in lib/modules beside the directory that has it (as a package unpacks) or of this
// machine; or a series that Debian 12 has ("6.1", "6.12"), which is downloaded into cache.
func Locate(ctx context.Context, image, cache string) (Installed, error) {
	for _, k := range Kernels {
		if k.Series == image {
			return k.Fetch(ctx, cache)
		}
	}
	f, err := os.Open(image)
	if err != nil {
		return Installed{}, fmt.Errorf("kernel: %w; name a kernel's file, or one of Debian's: %s", err, series())
	}
	defer f.Close()
	release, err := releaseOf(f)
	if err != nil {
		return Installed{}, fmt.Errorf("kernel %s: %w", image, err)
	}
	path, err := filepath.Abs(image)
	if err != nil {
		return Installed{}, err
	}
	beside := filepath.Join(filepath.Dir(filepath.Dir(path)), "lib", "modules", release)
	for _, modules := range []string{beside, filepath.Join("/lib/modules", release)} {
		if _, err := os.Stat(modules); err == nil {
			return Installed{Release: release, Image: path, Modules: modules}, nil
		}
	}
	return Installed{}, fmt.Errorf("kernel %s is %s, whose modules are neither in %s nor in /lib/modules", image, release, beside)
}

func series() string {
	var names []string
	for _, k := range Kernels {
		names = append(names, k.Series)
	}
	return strings.Join(names, ", ")
}

// The parts of a bzImage's header that tell its release (Linux, Documentation/arch/x86/boot.rst): little-endian, offsets from the file's beginning.
const (
	headerMagicAt  = 0x202 // "HdrS"
	versionFieldAt = 0x20e // offset of a string, less 0x200; 0 when there is none
	versionBase    = 0x200
	maxVersion     = 256
)

var errNoKernel = errors.New("it is no bzImage of Linux for x86")

// releaseOf reads the release that uname -r prints from a bzImage.
func releaseOf(image io.ReaderAt) (string, error) {
	magic := make([]byte, 4)
	if _, err := image.ReadAt(magic, headerMagicAt); err != nil || string(magic) != "HdrS" {
		return "", errNoKernel
	}
	field := make([]byte, 2)
	if _, err := image.ReadAt(field, versionFieldAt); err != nil {
		return "", errNoKernel
	}
	version := make([]byte, maxVersion)
	n, err := image.ReadAt(version, versionBase+int64(binary.LittleEndian.Uint16(field)))
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	text, _, ended := bytes.Cut(version[:n], []byte{0})
	release, _, _ := strings.Cut(string(text), " ")
	if !ended || release == "" || strings.ContainsAny(release, "/\n") {
		return "", errNoKernel
	}
	return release, nil
}
