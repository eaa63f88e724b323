// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Teardown ends everything of a node's runtime: pods, shims, the daemon, mounts below its directories, and RunDir. DataDir is kept: images and
// the metadata of containers that no longer run stay there, as after a power cut. It needs no running daemon and may be called again.
func Teardown(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	var problems []error
	if daemon := adopt(ctx, cfg); daemon != nil {
		problems = append(problems, removePods(ctx, cfg))
		daemon.stop(stopTimeout)
		daemon.release()
	}
	problems = append(problems, killShims(cfg), unmountBelow(cfg.RunDir), unmountBelow(cfg.DataDir))
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("tear down container runtime: %w", err)
	}
	if err := os.RemoveAll(cfg.socketDir()); err != nil {
		return err
	}
	return os.RemoveAll(cfg.RunDir)
}

func removePods(ctx context.Context, cfg Config) error {
	images, err := OpenImages(cfg.Socket(), cfg.Snapshotter)
	if err != nil {
		return err
	}
	defer images.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := images.waitAnswers(ctx); err != nil {
		return err
	}
	cri := runtimeapi.NewRuntimeServiceClient(images.conn())
	pods, err := cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var problems []error
	for _, pod := range pods.Items {
		if _, err := cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			problems = append(problems, err)
		}
		if _, err := cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// killShims ends shims whose command line names this node's socket, and the containers they hold.
func killShims(cfg Config) error {
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, name := range processes {
		cmdline, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		args := strings.Split(string(cmdline), "\x00")
		if i := slices.Index(args, "-address"); i < 0 || i+1 >= len(args) || args[i+1] != cfg.Socket() || !slices.Contains(args, "-id") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(name, "/proc/%d/cmdline", &pid); err != nil || pid <= 1 || pid == os.Getpid() {
			continue
		}
		for _, child := range children(pid) {
			_ = unix.Kill(child, unix.SIGKILL)
		}
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	return nil
}

// children lists the direct children of pid.
func children(pid int) []int {
	var out []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(data)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				out = append(out, child)
			}
		}
	}
	return out
}

// unmountBelow detaches every mount below dir, deepest first.
func unmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 {
			if point := unescapeMount(fields[4]); strings.HasPrefix(point, dir+"/") {
				points = append(points, point)
			}
		}
	}
	slices.Reverse(points)
	var problems []error
	for _, point := range points {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			problems = append(problems, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(problems...)
}

var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func unescapeMount(s string) string { return mountEscapes.Replace(s) }
