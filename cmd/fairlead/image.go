// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/dataplane/containerd"
)

func newImageCommand() *cobra.Command {
	var runDir string
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Work on the images of this node",
		Example: `  fairlead image import app.tar
  fairlead image list`,
	}
	cmd.PersistentFlags().StringVar(&runDir, "run-dir", "/run/fairlead", "the agent's directory for sockets")
	open := func() (*containerd.Images, error) {
		return containerd.OpenImages(containerd.Config{RunDir: filepath.Join(runDir, "containerd")}.Socket(), "")
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "import FILE...",
		Short: "Import image archives (OCI or docker, plain, gzip or zstd)",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := open()
			if err != nil {
				return err
			}
			defer images.Close()
			for _, path := range args {
				f, err := os.Open(path)
				if err != nil {
					return err
				}
				names, err := images.Import(cmd.Context(), f, false)
				f.Close()
				if err != nil {
					return fmt.Errorf("import %s: %w", path, err)
				}
				for _, name := range names {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
			}
			return nil
		},
	}, &cobra.Command{
		Use:   "list",
		Short: "List the node's images",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			images, err := open()
			if err != nil {
				return err
			}
			defer images.Close()
			all, err := images.List(cmd.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tDIGEST\tSIZE")
			for _, i := range all {
				fmt.Fprintf(w, "%s\t%.19s\t%d KiB\n", i.Name, i.Digest, i.Size>>10)
			}
			return w.Flush()
		},
	})
	return cmd
}
