// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// shared are the files that all servers of a cluster have in common, each key before its certificate. Everything else is made from them.
var shared = []string{"ca.key", "ca.crt", "front-proxy-ca.key", "front-proxy-ca.crt", "sa.key", "etcd-ca.key", "etcd-ca.crt"}

// HasEtcd reports whether dir holds an authority for etcd members, which is so once Open was called with Config.Etcd.
func HasEtcd(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "etcd-ca.key"))
	return err == nil
}

// Shared returns the contents, by file name, of what another server of the cluster needs. Who has them can do everything.
func (p *PKI) Shared() (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range shared {
		data, err := os.ReadFile(p.path(name))
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(name, "etcd-") {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[name] = data
	}
	return out, nil
}

// Adopt writes what Shared returned on another server into dir, before Open. It may be repeated after a crash. It changes nothing when dir holds
// keys of another cluster: to replace them would cut off whoever trusts them.
func Adopt(dir string, files map[string][]byte) error {
	for name, data := range files {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || strings.HasSuffix(name, ".crt") {
			continue // a certificate may have been renewed there; its key decides
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(have, data) {
			return fmt.Errorf("%s belongs to another cluster; move %s away to join this one", filepath.Join(dir, name), dir)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range shared {
		data, ok := files[name]
		if !ok && strings.HasPrefix(name, "etcd-") {
			continue
		}
		if !ok {
			return fmt.Errorf("the cluster's keys lack %s", name)
		}
		mode := fs.FileMode(0o600)
		if strings.HasSuffix(name, ".crt") {
			mode = 0o644
		}
		if err := WriteFile(filepath.Join(dir, name), data, mode); err != nil {
			return err
		}
	}
	return nil
}
