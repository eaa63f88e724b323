// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// testCommand has a flag of each sort that our commands have.
func testCommand(t *testing.T, config string, args ...string) (got struct {
	name   string
	ips    []string
	port   int
	off    bool
	labels map[string]string
}, err error) {
	t.Helper()
	cmd := withConfigFile(&cobra.Command{Use: "test", RunE: func(*cobra.Command, []string) error { return nil }, SilenceUsage: true, SilenceErrors: true})
	f := cmd.Flags()
	f.StringVar(&got.name, "node-name", "", "")
	f.StringSliceVar(&got.ips, "node-ip", nil, "")
	f.IntVar(&got.port, "port", 6443, "")
	f.BoolVar(&got.off, "disable-agent", false, "")
	f.StringToStringVar(&got.labels, "node-label", nil, "")
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.SetArgs(append(args, "--config="+file))
	err = cmd.Execute()
	return got, err
}

func TestConfigFileSetsEverySortOfFlag(t *testing.T) {
	got, err := testCommand(t, `
node-name: n1
node-ip: [10.0.0.7, "fd00::7"]
port: 7443
disable-agent: true
node-label: {rack: r7}
`)
	if err != nil {
		t.Fatal(err)
	}
	if got.name != "n1" || !slices.Equal(got.ips, []string{"10.0.0.7", "fd00::7"}) || got.port != 7443 || !got.off || got.labels["rack"] != "r7" {
		t.Errorf("got %+v", got)
	}
}

func TestCommandLineWinsOverConfigFile(t *testing.T) {
	got, err := testCommand(t, "node-name: file\nnode-ip: 10.0.0.1\n", "--node-name=line", "--node-ip=10.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	if got.name != "line" || !slices.Equal(got.ips, []string{"10.0.0.2"}) {
		t.Errorf("got %+v, want the command line's", got)
	}
}

func TestConfigFileErrorsNameWhatIsWrong(t *testing.T) {
	for config, want := range map[string][]string{
		"nod-name: x\nport: y\n":       {`"nod-name" is no flag`, "port:"},
		"node-name: [a\n":              {"config.yaml", "yaml"},
		"node-name: a\nnode-name: b\n": {"node-name"},
		"config: /etc/other\n":         {`"config" is no flag`},
		"node-ip: [[{a: null}]]\n":     {"node-ip: want a text"},
	} {
		_, err := testCommand(t, config)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%q: error %v, want one with %q", config, err, w)
			}
		}
	}
	cmd := withConfigFile(&cobra.Command{Use: "test", RunE: func(*cobra.Command, []string) error { return nil }, SilenceUsage: true, SilenceErrors: true})
	cmd.SetArgs([]string{"--config=/nonexistent.yaml"})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "/nonexistent.yaml") {
		t.Errorf("a named file that is not there: %v, want an error that names it", err)
	}
}

func FuzzApplyConfig(f *testing.F) {
	f.Add([]byte("node-name: n1\n"))
	f.Add([]byte("a: [1, {b: c}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd := &cobra.Command{Use: "test"}
		cmd.Flags().String("node-name", "", "")
		_ = applyConfig(cmd.Flags(), b) // must not panic
	})
}
