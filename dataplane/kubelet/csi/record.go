// SPDX-License-Identifier: Apache-2.0

package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

const recordFile = "vol_data.json"

// record is what was done for one volume of one pod, or for the staging of one volume. The names of the first fields are Kubernetes'.
type record struct {
	Driver    string `json:"driverName"`
	Node      string `json:"nodeName,omitempty"`
	Spec      string `json:"specVolID"` // the persistent volume's name, or the pod's own for an inline volume
	Handle    string `json:"volumeHandle"`
	Lifecycle string `json:"volumeLifecycleMode"` // Persistent or Ephemeral

	PodVolume string `json:"podVolume,omitempty"` // the volume's name in the pod
	Block     bool   `json:"block,omitempty"`
	Target    string `json:"target"` // where it is published, or staged

	dir string // of the file
}

// volumeID names a volume of a driver.
func (r *record) volumeID() string { return r.Driver + "^" + r.Handle }

func (r *record) write() error {
	if err := os.MkdirAll(r.dir, 0o750); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	name := filepath.Join(r.dir, recordFile)
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// remove removes the record with its directory; a directory that has more in it is an error, so that no volume is ever emptied.
func (r *record) remove() error {
	for _, name := range []string{recordFile, recordFile + ".new"} {
		if err := os.Remove(filepath.Join(r.dir, name)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if err := os.Remove(r.dir); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// readRecords reads the records that match a pattern. One that cannot be read is an error, beside the others.
func readRecords(pattern string) (out []*record, err error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		data, readErr := os.ReadFile(file)
		r := &record{}
		if readErr == nil {
			readErr = json.Unmarshal(data, r)
		}
		if readErr == nil && (r.Driver == "" || r.Handle == "" || !filepath.IsAbs(r.Target)) {
			readErr = fmt.Errorf("driver, handle or target is missing")
		}
		if readErr != nil {
			err = fmt.Errorf("record of a CSI volume %s: %w", file, readErr)
			continue
		}
		r.dir = filepath.Dir(file)
		out = append(out, r)
	}
	return out, err
}

// Names on disk, as Kubernetes' kubelet has them: drivers and their tools know some.
func (v *Volumes) podDir(uid types.UID) string { return filepath.Join(v.Root, "pods", string(uid)) }

func (v *Volumes) recordDir(uid types.UID, spec string, block bool) string {
	kind := "volumes"
	if block {
		kind = "volumeDevices"
	}
	return filepath.Join(v.podDir(uid), kind, "kubernetes.io~csi", spec)
}

func (v *Volumes) publishPath(uid types.UID, spec string, block bool) string {
	if block {
		return filepath.Join(v.Root, "plugins/kubernetes.io/csi/volumeDevices/publish", spec, string(uid))
	}
	return filepath.Join(v.recordDir(uid, spec, false), "mount")
}

// stagingDir holds the record of a staged volume, and the staging path.
func (v *Volumes) stagingDir(driver, handle string) string {
	sum := sha256.Sum256([]byte(handle))
	return filepath.Join(v.Root, "plugins/kubernetes.io/csi", driver, hex.EncodeToString(sum[:]))
}

// podRecords reads the records of the pods whose directories match a pattern.
func podRecords(pattern string) ([]*record, error) {
	a, err := readRecords(filepath.Join(pattern, "volumes/kubernetes.io~csi/*", recordFile))
	b, err2 := readRecords(filepath.Join(pattern, "volumeDevices/kubernetes.io~csi/*", recordFile))
	if err == nil {
		err = err2
	}
	return append(a, b...), err
}

// escape makes a path match itself alone as a pattern.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
