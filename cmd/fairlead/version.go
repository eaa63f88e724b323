// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=...); a build without it calls itself devel.
var version = "devel"

// Version is what `fairlead version -o json` prints.
type Version struct {
	Version    string            `json:"version"`
	Kubernetes string            `json:"kubernetes"` // the API version served
	Go         string            `json:"go"`
	Platform   string            `json:"platform"`
	Modules    map[string]string `json:"modules"`
}

func currentVersion() Version {
	v := Version{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Modules: map[string]string{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, m := range info.Deps {
		switch m.Path {
		case "k8s.io/apiserver":
			v.Kubernetes = kubernetesVersion(m.Version)
			fallthrough
		case "go.etcd.io/etcd/server/v3", "github.com/containerd/containerd/v2", "github.com/coredns/coredns", "github.com/cilium/ebpf":
			v.Modules[m.Path] = m.Version
		}
	}
	return v
}

// kubernetesVersion turns a staging module's version into the Kubernetes release it belongs to: v0.37.2 is v1.37.2.
func kubernetesVersion(module string) string {
	if len(module) > 3 && module[:3] == "v0." {
		return "v1." + module[3:]
	}
	return module
}

func newVersionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of Fairlead and of what it embeds",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := currentVersion()
			switch output {
			case "json":
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			case "":
				fmt.Fprintf(cmd.OutOrStdout(), "fairlead %s (Kubernetes %s, %s, %s)\n", v.Version, v.Kubernetes, v.Go, v.Platform)
				return nil
			}
			return fmt.Errorf("output %q: want json", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output format: json")
	return cmd
}
