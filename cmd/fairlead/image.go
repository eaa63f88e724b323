// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/containerd"
	"github.com/fairlead/fairlead/dataplane/kubelet/images"
)

// criTimeout bounds calls to the runtime; a pull is bounded by its own progress.
const criTimeout = 2 * time.Minute

// imageTool is the node's runtime as the image commands reach it.
type imageTool struct {
	runDir, endpoint string
}

func newImageCommand() *cobra.Command {
	var tool imageTool
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Work on the images of this node",
		Example: `  fairlead image import app.tar
  fairlead image list -o json
  fairlead image pull registry.example.com/app:1.2
  fairlead image prune`,
	}
	// The CRI client logs what it returns too; here it is said once.
	cmd.PersistentPreRun = func(cmd *cobra.Command, _ []string) { cmd.SetContext(klog.NewContext(cmd.Context(), klog.Logger{})) }
	cmd.PersistentFlags().StringVar(&tool.runDir, "run-dir", "/run/fairlead", "the agent's directory for sockets")
	cmd.PersistentFlags().StringVar(&tool.endpoint, "container-runtime-endpoint", "", "CRI socket of another runtime than the agent's own, as unix:///path")
	cmd.AddCommand(tool.importCommand(), tool.listCommand(), tool.pullCommand(), tool.pruneCommand())
	return cmd
}

// socket is the agent's containerd.
func (t *imageTool) socket() string {
	return containerd.Config{RunDir: filepath.Join(t.runDir, "containerd")}.Socket()
}

func (t *imageTool) criEndpoint() string {
	if t.endpoint != "" {
		return t.endpoint
	}
	return "unix://" + t.socket()
}

// images connects to the runtime's image service.
func (t *imageTool) images(ctx context.Context) (internalapi.ImageManagerService, error) {
	service, err := cri.NewRemoteImageServiceBuilder().WithConnectionTimeout(criTimeout).WithEndpoint(t.criEndpoint()).Build(ctx)
	if err != nil {
		return nil, t.unreachable(err)
	}
	return service, nil
}

func (t *imageTool) unreachable(err error) error {
	return fmt.Errorf("connect to the container runtime at %s (is the agent running?): %w", t.criEndpoint(), err)
}

func (t *imageTool) importCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "import FILE...",
		Short:   "Import image archives (OCI or docker, plain, gzip or zstd)",
		Example: "  fairlead image import app.tar tools.tar.zst",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if t.endpoint != "" {
				return errors.New("images are imported into the agent's own containerd; for another runtime use its own tool")
			}
			store, err := containerd.OpenImages(t.socket(), "")
			if err != nil {
				return err
			}
			defer store.Close()
			for _, path := range args {
				names, err := importArchive(cmd.Context(), store, path)
				if err != nil {
					return fmt.Errorf("import %s: %w", path, err)
				}
				for _, name := range names {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
			}
			return nil
		},
	}
}

func importArchive(ctx context.Context, store *containerd.Images, path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return store.Import(ctx, f, false)
}

// listedImage is one name of an image. Size is in bytes, as the runtime accounts for it.
type listedImage struct {
	Name   string `json:"name"`
	ID     string `json:"id"`
	Size   uint64 `json:"size"`
	Pinned bool   `json:"pinned,omitempty"`
}

func (t *imageTool) listCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the node's images",
		Example: `  fairlead image list
  fairlead image list -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("output %q is not table or json", output)
			}
			service, err := t.images(cmd.Context())
			if err != nil {
				return err
			}
			defer service.Close(cmd.Context())
			found, err := service.ListImages(cmd.Context(), nil)
			if err != nil {
				return t.unreachable(err)
			}
			all := []listedImage{}
			for _, image := range found {
				names := image.RepoTags
				if len(names) == 0 {
					names = append(image.RepoDigests, "<none>")[:1]
				}
				for _, name := range names {
					all = append(all, listedImage{Name: name, ID: image.Id, Size: image.Size, Pinned: image.Pinned})
				}
			}
			slices.SortFunc(all, func(a, b listedImage) int { return strings.Compare(a.Name, b.Name) })
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tID\tSIZE")
			for _, i := range all {
				fmt.Fprintf(w, "%s\t%.12s\t%s\n", i.Name, strings.TrimPrefix(i.ID, "sha256:"), size(i.Size))
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func (t *imageTool) pullCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "pull IMAGE...",
		Short: "Pull images from their registries",
		Long: `Pull images from their registries, also when the node has them.

Credentials are read from docker's config.json: --config, or ~/.docker/config.json when it is there.`,
		Example: `  fairlead image pull registry.example.com/app:1.2
  fairlead image pull --config ./config.json registry.example.com/private/app:1.2`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := readCredentials(config)
			if err != nil {
				return err
			}
			service, err := t.images(cmd.Context())
			if err != nil {
				return err
			}
			defer service.Close(cmd.Context())
			puller := images.NewPuller(service, 1)
			for _, name := range args {
				stop := tick(cmd.ErrOrStderr(), "still pulling "+name)
				_, err := puller.Ensure(cmd.Context(), name, v1.PullAlways, keys, nil, func(warning bool, _, message string) {
					if !warning { // what failed is the error
						fmt.Fprintln(cmd.OutOrStdout(), message)
					}
				})
				stop()
				if err != nil {
					return fmt.Errorf("pull %s: %w", name, err)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "credentials for registries, docker's config.json")
	return cmd
}

// readCredentials reads path, or the user's own file when path is empty and there is one.
func readCredentials(path string) (images.Keyring, error) {
	optional := path == ""
	if optional {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil // nowhere to look
		}
		path = filepath.Join(home, ".docker", "config.json")
	}
	data, err := os.ReadFile(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	keys, err := images.ParseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("credentials in %s: %w", path, err)
	}
	return keys, nil
}

// tick writes what goes on every two seconds until the returned function is called.
func tick(w io.Writer, what string) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		started, ticker := time.Now(), time.NewTicker(2*time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				fmt.Fprintf(w, "%s (%.0f s)\n", what, time.Since(started).Seconds())
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

func (t *imageTool) pruneCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "prune",
		Short:   "Remove the images that no container of this node uses",
		Example: "  fairlead image prune",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			service, err := t.images(ctx)
			if err != nil {
				return err
			}
			defer service.Close(ctx)
			runtime, err := cri.NewRemoteRuntimeServiceBuilder().WithConnectionTimeout(criTimeout).WithEndpoint(t.criEndpoint()).Build(ctx)
			if err != nil {
				return t.unreachable(err)
			}
			defer runtime.Close(ctx)
			collector := images.Collector{Service: service,
				Used: func(ctx context.Context) (map[string]bool, error) { return images.OfContainers(ctx, runtime) },
				Removed: func(image *runtimeapi.Image) {
					fmt.Fprintf(cmd.OutOrStdout(), "%s\n", strings.Join(append(image.RepoTags, image.Id), " "))
				},
			}
			freed, err := collector.Free(ctx, 0)
			fmt.Fprintf(cmd.ErrOrStderr(), "%s freed\n", size(freed))
			return err
		},
	}
}

// size writes bytes for people.
func size(bytes uint64) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}
