// SPDX-License-Identifier: Apache-2.0

// Package testimage builds the image of hack/images/testapp for tests that run real containers.
package testimage

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
	var out bytes.Buffer
	err = ociarchive.Write(&out, ociarchive.Image{
		Name: Name, Architecture: runtime.GOARCH, Entrypoint: []string{"/testapp"},
		Files: []ociarchive.File{
			{Path: "/testapp", Mode: 0o755, Data: data},
			{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/testapp\nplain:x:1000:1000::/:/testapp\n")},
			{Path: "/tmp", Mode: 0o1777, Dir: true},
		},
	})
	return out.Bytes(), err
}
