// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/distribution/reference"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// criNamespace is the containerd namespace CRI looks into; the label marks an image as never to be collected.
const (
	criNamespace = "k8s.io"
	pinnedLabel  = "io.cri-containerd.pinned"
)

//go:embed pause/*.tar
var pauseArchives embed.FS

// Images works on the images of one daemon.
type Images struct {
	client      *client.Client
	snapshotter string
}

// OpenImages connects to the daemon at socket.
func OpenImages(socket, snapshotter string) (*Images, error) {
	c, err := client.New(socket, client.WithDefaultNamespace(criNamespace), client.WithTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connect to the container runtime at %s (is the agent running?): %w", socket, err)
	}
	if snapshotter == "" {
		snapshotter = "overlayfs"
	}
	return &Images{client: c, snapshotter: snapshotter}, nil
}

// Close ends the connection.
func (i *Images) Close() error { return i.client.Close() }

// Import reads one OCI layout or docker-save tar, plain or compressed by gzip or zstd, stores and unpacks its images for this platform and
// returns their names. An image of the same name is replaced. pinned images are never garbage-collected.
func (i *Images) Import(ctx context.Context, r io.Reader, pinned bool) ([]string, error) {
	ctx = namespaces.WithNamespace(ctx, criNamespace)
	plain, done, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer done()
	// CRI marks a new image as its own and gives it a name by its id, which image volumes need; so it must not be marked already.
	var labels map[string]string
	if pinned {
		labels = map[string]string{pinnedLabel: "pinned"}
	}
	imported, err := i.client.Import(ctx, plain,
		client.WithImageLabels(labels),
		client.WithImageRefTranslator(normalName),
		client.WithDigestRef(func(d digest.Digest) string { return "import@" + d.String() }),
		client.WithSkipDigestRef(func(name string) bool { return name != "" }),
		client.WithSkipMissing())
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	var names []string
	for _, image := range imported {
		if err := client.NewImage(i.client, image).Unpack(ctx, i.snapshotter); err != nil {
			return names, fmt.Errorf("unpack image %s: %w", image.Name, err)
		}
		names = append(names, image.Name)
	}
	if len(names) == 0 {
		return nil, errors.New("import images: the archive holds none for this platform")
	}
	return names, nil
}

// normalName turns a short image name into a full one ("app:1" is docker.io/library/app:1), as pulling it would.
func normalName(name string) string {
	if name == "" {
		return ""
	}
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return "" // a bare tag of an OCI layout names no image
	}
	return named.String()
}

// decompress looks at the first bytes and returns the tar inside.
func decompress(r io.Reader) (io.Reader, func(), error) {
	buffered := bufio.NewReader(r)
	magic, err := buffered.Peek(4)
	if err != nil {
		return nil, nil, fmt.Errorf("image archive: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, nil, fmt.Errorf("image archive: %w", err)
		}
		return z, func() { z.Close() }, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, nil, fmt.Errorf("image archive: %w", err)
		}
		return z, z.Close, nil
	}
	return buffered, func() {}, nil
}

// importAll imports the sandbox image, unless it is there already, and waits until CRI answers.
func importAll(ctx context.Context, cfg Config) error {
	images, err := OpenImages(cfg.Socket(), cfg.Snapshotter)
	if err != nil {
		return err
	}
	defer images.Close()
	if _, err := images.client.GetImage(namespaces.WithNamespace(ctx, criNamespace), SandboxImage); err == nil {
		return images.waitAnswers(ctx)
	}
	pause, err := pauseArchives.ReadFile("pause/pause_" + runtime.GOARCH + ".tar")
	if err != nil {
		return fmt.Errorf("no sandbox image for this architecture: %w", err)
	}
	if _, err := images.Import(ctx, bytes.NewReader(pause), true); err != nil {
		return err
	}
	return images.waitKnown(ctx, SandboxImage)
}

// waitKnown waits until CRI, which learns of imports by events, knows the image.
func (i *Images) waitKnown(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cri := runtimeapi.NewImageServiceClient(i.conn())
	for {
		status, err := cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		if err == nil && status.Image != nil {
			return nil
		}
		select {
		case <-time.After(readyInterval):
		case <-ctx.Done():
			return fmt.Errorf("CRI does not know image %s: %w", name, errors.Join(err, ctx.Err()))
		}
	}
}

// waitAnswers returns when CRI answers: after its start the daemon first reads what containers there are.
func (i *Images) waitAnswers(ctx context.Context) error {
	cri := runtimeapi.NewRuntimeServiceClient(i.conn())
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		_, err := cri.Version(ctx, &runtimeapi.VersionRequest{})
		if status.Code(err) != codes.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the container runtime does not answer: %w", err)
		case <-tick.C:
		}
	}
}

// watchArchives imports what is in ImageDir and what appears there, until ctx ends. A file is imported once per content (size and
// time of change); write it under another name and rename it, or it may be tried before it is whole (and again after).
func watchArchives(ctx context.Context, cfg Config) {
	log := klog.FromContext(ctx)
	done := map[string]string{}
	watch, err := newDirWatch(cfg.ImageDir())
	if err != nil {
		log.Error(err, "Image archives that appear later are not noticed", "dir", cfg.ImageDir())
	}
	defer watch.close()
	for {
		entries, err := os.ReadDir(cfg.ImageDir())
		if err != nil {
			log.Error(err, "Cannot read image archives")
		}
		for _, entry := range entries {
			name := filepath.Join(cfg.ImageDir(), entry.Name())
			info, err := entry.Info()
			if err != nil || !info.Mode().IsRegular() || !isArchive(entry.Name()) {
				continue
			}
			stamp := fmt.Sprint(info.Size(), info.ModTime().UnixNano())
			if done[name] == stamp {
				continue
			}
			done[name] = stamp
			names, err := importFile(ctx, cfg, name)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				log.Error(err, "Image archive was not imported", "file", name)
				if cfg.OnBroken != nil {
					cfg.OnBroken(name, err)
				}
				continue
			}
			log.Info("Imported images", "file", name, "images", names)
		}
		if !watch.wait(ctx) {
			return
		}
	}
}

func isArchive(name string) bool {
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

func importFile(ctx context.Context, cfg Config, name string) ([]string, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	images, err := OpenImages(cfg.Socket(), cfg.Snapshotter)
	if err != nil {
		return nil, err
	}
	defer images.Close()
	return images.Import(ctx, file, false)
}

// dirWatch tells that something in a directory was written or moved there.
type dirWatch struct{ file *os.File }

func newDirWatch(dir string) (*dirWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &dirWatch{file: os.NewFile(uintptr(fd), "inotify")}, nil
}

// wait returns true when something happened, false when ctx ended.
func (w *dirWatch) wait(ctx context.Context) bool {
	if w == nil {
		<-ctx.Done()
		return false
	}
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := w.file.Read(make([]byte, 16<<10))
	return err == nil && ctx.Err() == nil
}

func (w *dirWatch) close() {
	if w != nil {
		w.file.Close()
	}
}

// conn is the connection for services that containerd's client does not wrap (CRI).
func (i *Images) conn() grpc.ClientConnInterface { return i.client.Conn().(grpc.ClientConnInterface) }
