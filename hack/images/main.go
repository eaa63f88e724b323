// SPDX-License-Identifier: Apache-2.0

// Command images builds container images without a registry or a container runtime: the embedded pause image, and images for
// trials and tests from single programs and from Debian's busybox.
//
//	go run ./hack/images pause -o dataplane/containerd/pause/pause_amd64.tar
//	go run ./hack/images busybox -o out/images/busybox.tar
//	go run ./hack/images program -name example.com/app:1 -o app.tar ./out/app [more files as SRC=/DST]   ("program" may be left out)
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/fairlead/fairlead/hack/images/ociarchive"
)

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(args []string, stderr io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: images pause|busybox|program [-name REF] -o FILE [files]")
	}
	if strings.HasPrefix(args[0], "-") {
		args = append([]string{"program"}, args...)
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	output := flags.String("o", "", "archive to write")
	name := flags.String("name", "", "image reference")
	entrypoint := flags.String("entrypoint", "", "program to run; program: the first file")
	arch := flags.String("arch", runtime.GOARCH, "architecture")
	source := flags.String("source", "hack/images/pause/pause.c", "source of the pause program")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if *output == "" {
		return errors.New("-o FILE is missing")
	}
	var image ociarchive.Image
	var err error
	switch args[0] {
	case "pause":
		image, err = pause(*source, *arch, stderr)
	case "busybox":
		image, err = busybox(stderr)
	case "program":
		image, err = program(flags.Args())
	default:
		return fmt.Errorf("no image called %q", args[0])
	}
	if err != nil {
		return err
	}
	if *name != "" {
		image.Name = *name
	}
	if *entrypoint != "" {
		image.Entrypoint = []string{*entrypoint}
	}
	if image.Name == "" {
		return errors.New("-name REF is missing")
	}
	image.Architecture = *arch
	var out bytes.Buffer
	if err := ociarchive.Write(&out, image); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*output), 0o755); err != nil {
		return err
	}
	return os.WriteFile(*output, out.Bytes(), 0o644)
}

// pause compiles the program that holds a pod's namespaces. clang compiles for any architecture; linking needs the architecture's own ld.
func pause(source, arch string, stderr io.Writer) (ociarchive.Image, error) {
	target := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[arch]
	if target == "" {
		return ociarchive.Image{}, fmt.Errorf("pause does not know architecture %q", arch)
	}
	dir, err := os.MkdirTemp("", "pause")
	if err != nil {
		return ociarchive.Image{}, err
	}
	defer os.RemoveAll(dir)
	object, binary := filepath.Join(dir, "pause.o"), filepath.Join(dir, "pause")
	linker := "ld"
	if arch != runtime.GOARCH {
		linker = strings.TrimSuffix(target, "-gnu") + "-gnu-ld"
	}
	for _, command := range [][]string{
		{"clang-19", "--target=" + target, "-c", "-Os", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fno-stack-protector",
			"-fno-asynchronous-unwind-tables", "-fno-pie", "-fno-ident", "-o", object, source},
		{linker, "-static", "-s", "--build-id=none", "-z", "noseparate-code", "-z", "noexecstack", "-o", binary, object},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stderr = stderr
		if err := cmd.Run(); err != nil {
			return ociarchive.Image{}, fmt.Errorf("%s: %w", command[0], err)
		}
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return ociarchive.Image{}, err
	}
	return ociarchive.Image{
		Name: "fairlead.io/pause:1", User: "65535:65535", Entrypoint: []string{"/pause"},
		Files: []ociarchive.File{{Path: "/pause", Mode: 0o755, Data: data}},
	}, nil
}

// busybox unpacks Debian's busybox-static into an image with a link for each applet.
func busybox(stderr io.Writer) (ociarchive.Image, error) {
	dir, err := os.MkdirTemp("", "busybox")
	if err != nil {
		return ociarchive.Image{}, err
	}
	defer os.RemoveAll(dir)
	download := exec.Command("apt-get", "download", "busybox-static")
	download.Dir, download.Stderr = dir, stderr
	if err := download.Run(); err != nil {
		return ociarchive.Image{}, fmt.Errorf("apt-get download busybox-static: %w", err)
	}
	packages, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(packages) != 1 {
		return ociarchive.Image{}, fmt.Errorf("expected one package, found %v: %v", packages, err)
	}
	if err := exec.Command("dpkg-deb", "-x", packages[0], dir).Run(); err != nil {
		return ociarchive.Image{}, fmt.Errorf("dpkg-deb -x: %w", err)
	}
	binary := filepath.Join(dir, "bin", "busybox")
	data, err := os.ReadFile(binary)
	if err != nil {
		return ociarchive.Image{}, err
	}
	applets, err := exec.Command(binary, "--list").Output()
	if err != nil {
		return ociarchive.Image{}, fmt.Errorf("busybox --list: %w", err)
	}
	return BusyboxImage(data, strings.Fields(string(applets))), nil
}

// BusyboxImage lays out busybox with its applets and the few files programs expect in /etc.
func BusyboxImage(binary []byte, applets []string) ociarchive.Image {
	files := []ociarchive.File{
		{Path: "/bin/busybox", Mode: 0o755, Data: binary},
		{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")},
		{Path: "/etc/group", Mode: 0o644, Data: []byte("root:x:0:\nnogroup:x:65534:\n")},
		{Path: "/root", Mode: 0o700, Dir: true},
		{Path: "/tmp", Mode: 0o1777, Dir: true},
		{Path: "/home", Mode: 0o755, Dir: true},
		{Path: "/usr/bin", Mode: 0o755, Dir: true},
	}
	for _, applet := range applets {
		if applet != "busybox" {
			files = append(files, ociarchive.File{Path: "/bin/" + applet, Linkname: "busybox", Mode: 0o777})
		}
	}
	return ociarchive.Image{Name: "fairlead.io/busybox:1", Files: files, Cmd: []string{"sh"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}
}

// program puts one executable, and further files given as SRC=/DST, into an image.
func program(args []string) (ociarchive.Image, error) {
	if len(args) == 0 {
		return ociarchive.Image{}, errors.New("no program named")
	}
	entrypoint := "/" + filepath.Base(args[0])
	image := ociarchive.Image{Entrypoint: []string{entrypoint}}
	for i, arg := range args {
		source, destination, ok := strings.Cut(arg, "=")
		if i == 0 && !ok {
			destination = entrypoint
		}
		if destination == "" {
			return image, fmt.Errorf("%q is not SRC=/DST", arg)
		}
		info, err := os.Stat(source)
		if err != nil {
			return image, err
		}
		data, err := os.ReadFile(source)
		if err != nil {
			return image, err
		}
		image.Files = append(image.Files, ociarchive.File{Path: destination, Mode: int64(info.Mode().Perm()), Data: data})
	}
	return image, nil
}
