// SPDX-License-Identifier: Apache-2.0

// Package install puts the CNI plugin and its configuration on a node, keeps them there, and takes them away.
//
// The plugin is copied to a temporary name and renamed over the old one: a runtime executes either the old file or the new one, and one that is running is not "busy".
// The configuration is what makes a container runtime call the network ready. So it is written, atomically too, only when the agent can connect pods, and stays
// when the agent stops (an upgrade must not make the node lose its network: ADD then answers "try again later"); only Uninstall removes it.
package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
)

// Names on the node.
const (
	Plugin = "fairlead-cni"
	// ConfFile sorts before what most other networks install: runtimes take the first.
	ConfFile = "10-fairlead.conflist"
	Network  = "fairlead"
)

// Options say what to install where.
type Options struct {
	Source   string // the plugin's executable; empty: fairlead-cni beside this process's own executable
	BinDir   string // empty: /opt/cni/bin
	ConfDir  string // empty: /etc/cni/net.d
	Socket   string // the agent's socket as the plugin sees it; empty: the plugin's default
	QueueDir string // the deletion queue as the plugin sees it; empty: the plugin's default
	// Chained are further plugins after ours, each a JSON object.
	Chained []json.RawMessage
}

func (o *Options) defaults() error {
	if o.Source == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.Source = filepath.Join(filepath.Dir(self), Plugin)
	}
	if o.BinDir == "" {
		o.BinDir = "/opt/cni/bin"
	}
	if o.ConfDir == "" {
		o.ConfDir = "/etc/cni/net.d"
	}
	return nil
}

func (o *Options) binary() string { return filepath.Join(o.BinDir, Plugin) }
func (o *Options) conf() string   { return filepath.Join(o.ConfDir, ConfFile) }

// Conflist returns the configuration. It names version 1.0.0 for runtimes that know no newer one and offers 1.1.0 (STATUS, GC) to the others.
func Conflist(o Options) ([]byte, error) {
	own := map[string]any{
		"type":         Plugin,
		"capabilities": map[string]bool{"portMappings": true, "bandwidth": true, "ips": true, "mac": true, "dns": true, "io.kubernetes.cri.pod-annotations": true},
	}
	if len(o.Chained) == 0 {
		own["last"] = true
	}
	if o.Socket != "" {
		own["socket"] = o.Socket
	}
	if o.QueueDir != "" {
		own["queue"] = o.QueueDir
	}
	plugins := []any{own}
	for _, c := range o.Chained {
		plugins = append(plugins, c)
	}
	body, err := json.MarshalIndent(map[string]any{"cniVersion": "1.0.0", "cniVersions": []string{"1.0.0", "1.1.0"}, "name": Network, "plugins": plugins}, "", "  ")
	return append(body, '\n'), err
}

// InstallPlugin copies the executable. Installing what is already there changes nothing.
func InstallPlugin(o Options) error {
	if err := o.defaults(); err != nil {
		return err
	}
	body, err := os.ReadFile(o.Source)
	if err != nil {
		return fmt.Errorf("read the CNI plugin: %w", err)
	}
	return replace(o.binary(), body, 0o755)
}

// WriteConf writes the configuration. Call it when the agent is ready.
func WriteConf(o Options) error {
	if err := o.defaults(); err != nil {
		return err
	}
	body, err := Conflist(o)
	if err != nil {
		return fmt.Errorf("CNI configuration: %w", err)
	}
	return replace(o.conf(), body, 0o644)
}

// Uninstall removes the configuration first, so that no runtime calls a plugin that is gone, then the plugin. Removing what is absent is no error.
func Uninstall(o Options) error {
	if err := o.defaults(); err != nil {
		return err
	}
	for _, path := range []string{o.conf(), o.binary()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("uninstall CNI: %w", err)
		}
	}
	return nil
}

// State is what Status found.
type State struct {
	Plugin string `json:"plugin"` // "installed", "missing" or "different"
	Conf   string `json:"conf"`   // the same
	// First is the configuration that runtimes take, the first by name; empty if there is none.
	First string `json:"first"`
	Agent string `json:"agent"` // "ready", or why not
}

// Installed says whether runtimes use what is installed.
func (s State) Installed() bool {
	return s.Plugin == "installed" && s.Conf == "installed" && s.First == ConfFile
}

// Status compares the node with what would be installed. probe asks the agent; nil: it is not asked.
func Status(o Options, probe func() error) (State, error) {
	var s State
	if err := o.defaults(); err != nil {
		return s, err
	}
	want, err := Conflist(o)
	if err != nil {
		return s, err
	}
	s.Conf = compare(o.conf(), want)
	plugin, err := os.ReadFile(o.Source)
	if err != nil {
		return s, fmt.Errorf("read the CNI plugin: %w", err)
	}
	s.Plugin = compare(o.binary(), plugin)
	entries, err := os.ReadDir(o.ConfDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	for _, e := range entries { // sorted by name
		if ext := filepath.Ext(e.Name()); ext == ".conflist" || ext == ".conf" || ext == ".json" {
			s.First = e.Name()
			break
		}
	}
	if probe != nil {
		s.Agent = "ready"
		if err := probe(); err != nil {
			s.Agent = err.Error()
		}
	}
	return s, nil
}

// repairInterval is the time between two looks at the installed files.
const repairInterval = 2 * time.Second

// Keep installs plugin and configuration and repairs them until ctx ends; they stay then.
func Keep(ctx context.Context, o Options) error {
	log := logr.FromContextOrDiscard(ctx)
	if err := errors.Join(InstallPlugin(o), WriteConf(o)); err != nil {
		return err
	}
	tick := time.NewTicker(repairInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if s, err := Status(o, nil); err == nil && s.Plugin == "installed" && s.Conf == "installed" {
			continue
		}
		if err := errors.Join(InstallPlugin(o), WriteConf(o)); err != nil {
			log.Error(err, "Cannot repair the CNI installation")
			continue
		}
		log.Info("Repaired the CNI installation")
	}
}

func compare(path string, want []byte) string {
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "missing"
	case err != nil || !bytes.Equal(have, want):
		return "different"
	}
	return "installed"
}

// replace makes path hold body, by a rename.
func replace(path string, body []byte, mode os.FileMode) error {
	if st, err := os.Stat(path); err == nil && st.Mode().Perm() == mode && compare(path, body) == "installed" {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// A leading dot and no known extension: a runtime that lists the directory meanwhile takes no notice.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*.tmp")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(body))
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("install %s: %w", path, err)
	}
	return nil
}
