// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// Kernel is a kernel package of Debian.
type Kernel struct {
	Series string // "6.1"
	Suite  string // Debian suite that has it
}

// Kernels are what Debian 12 offers: its own and that of its backports.
var Kernels = []Kernel{
	{Series: "6.1", Suite: "bookworm"},
	{Series: "6.12", Suite: "bookworm-backports"},
}

// Installed is a kernel on disk.
type Installed struct {
	Release string // as uname -r prints it
	Image   string // the bzImage
	Modules string // directory lib/modules/RELEASE
}

// Fetch downloads the newest build of k with apt into dir and unpacks it there. The machine's own apt lists and packages are not touched.
// A kernel that is there already is used again.
func (k Kernel) Fetch(ctx context.Context, dir string) (Installed, error) {
	root := filepath.Join(dir, k.Series)
	if have, err := k.find(root); err == nil {
		return have, nil
	}
	apt := filepath.Join(dir, "apt", k.Suite)
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(apt, d), 0o755); err != nil {
			return Installed{}, err
		}
	}
	sources := filepath.Join(apt, "sources.list")
	line := "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian " + k.Suite + " main\n"
	if err := os.WriteFile(sources, []byte(line), 0o644); err != nil {
		return Installed{}, err
	}
	options := []string{"-qq", "-o", "Dir::Etc::SourceList=" + sources, "-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::State::Lists=" + filepath.Join(apt, "lists"), "-o", "Dir::Cache=" + filepath.Join(apt, "cache"), "-o", "APT::Sandbox::User=root"}
	if _, err := run(ctx, apt, "apt-get", append(options, "update")...); err != nil {
		return Installed{}, err
	}
	found, err := run(ctx, apt, "apt-cache", append(options[1:], "pkgnames", "linux-image-"+k.Series+".")...)
	if err != nil {
		return Installed{}, err
	}
	name, err := newest(strings.Fields(found))
	if err != nil {
		return Installed{}, fmt.Errorf("kernel %s in %s: %w", k.Series, k.Suite, err)
	}
	if _, err := run(ctx, apt, "apt-get", append(options, "download", name)...); err != nil {
		return Installed{}, err
	}
	debs, err := filepath.Glob(filepath.Join(apt, name+"_*.deb"))
	if err != nil || len(debs) == 0 {
		return Installed{}, fmt.Errorf("apt-get download %s left no package in %s", name, apt)
	}
	partial := root + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return Installed{}, err
	}
	if _, err := run(ctx, apt, "dpkg-deb", "-x", debs[0], partial); err != nil {
		return Installed{}, err
	}
	if err := os.Rename(partial, root); err != nil {
		return Installed{}, err
	}
	return k.find(root)
}

// find looks for an unpacked kernel below root.
func (k Kernel) find(root string) (Installed, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-"+k.Series+".*"))
	if err != nil || len(images) != 1 {
		return Installed{}, fmt.Errorf("kernel %s: %d images below %s", k.Series, len(images), root)
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return Installed{Release: release, Image: images[0], Modules: filepath.Join(root, "lib", "modules", release)}, nil
}

// cloudImage is the flavour without drivers for real hardware: a fifth of the size.
var cloudImage = regexp.MustCompile(`^linux-image-[0-9][^-]*(-[0-9]+)?-cloud-amd64$`)

func newest(names []string) (string, error) {
	var images []string
	for _, n := range names {
		if cloudImage.MatchString(n) {
			images = append(images, n)
		}
	}
	if len(images) == 0 {
		return "", errors.New("Debian has no cloud image of it")
	}
	sort.Slice(images, func(i, j int) bool { return versionLess(images[i], images[j]) })
	return images[len(images)-1], nil
}

var digits = regexp.MustCompile(`[0-9]+|[^0-9]+`)

// versionLess compares the numbers in a and b as numbers.
func versionLess(a, b string) bool {
	as, bs := digits.FindAllString(a, -1), digits.FindAllString(b, -1)
	for i := range min(len(as), len(bs)) {
		x, y := as[i], bs[i]
		if x == y {
			continue
		}
		if x[0] >= '0' && x[0] <= '9' && y[0] >= '0' && y[0] <= '9' && len(x) != len(y) {
			return len(x) < len(y)
		}
		return x < y
	}
	return len(as) < len(bs)
}

// run runs a command and returns its standard output; the error has what it wrote to the other.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}
