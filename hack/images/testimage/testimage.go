// SPDX-License-Identifier: Apache-2.0

// Package testimage builds images of hack/images/testapp for tests that run real containers: alone, or with a shell.
package testimage

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/fairlead/fairlead/hack/images/ociarchive"
)

// Name is the image's reference in the archive.
const Name = "fairlead.io/testapp:1"

// Build compiles testapp and returns the archive of an image whose entrypoint it is (at /testapp).
func Build(t testing.TB) []byte {
	t.Helper()
	archive, err := Archive(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// Archive is Build with a directory to work in.
func Archive(dir string) ([]byte, error) {
	files, err := files(dir)
	if err != nil {
		return nil, err
	}
	return write(ociarchive.Image{Name: Name, Entrypoint: []string{"/testapp"}, Files: files})
}

// Shell returns the archive of images with a shell: busybox (Debian: busybox-static) under its names in /bin, and testapp.
func Shell(dir string, names ...string) ([]byte, error) {
	files, err := files(dir)
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("busybox (Debian: busybox-static): %w", err)
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("names of busybox: %w", err)
	}
	files = append(files, ociarchive.File{Path: "/bin/busybox", Mode: 0o755, Data: busybox})
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			files = append(files, ociarchive.File{Path: "/bin/" + applet, Mode: 0o777, Linkname: "busybox"})
		}
	}
	var images []ociarchive.Image
	for _, name := range names {
		images = append(images, ociarchive.Image{Name: name, Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}, Files: files})
	}
	return write(images...)
}

func write(images ...ociarchive.Image) ([]byte, error) {
	for i := range images {
		images[i].Architecture = runtime.GOARCH
	}
	var out bytes.Buffer
	err := ociarchive.Write(&out, images...)
	return out.Bytes(), err
}

// files compiles testapp in dir and returns what every image has.
func files(dir string) ([]ociarchive.File, error) {
	binary := filepath.Join(dir, "testapp")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "github.com/fairlead/fairlead/hack/images/testapp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build testapp: %w\n%s", err, output)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	return []ociarchive.File{
		{Path: "/testapp", Mode: 0o755, Data: data},
		{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/testapp\nplain:x:1000:1000::/:/testapp\n")},
		{Path: "/tmp", Mode: 0o1777, Dir: true},
	}, nil
}
