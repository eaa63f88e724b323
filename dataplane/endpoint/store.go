// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/tables"
)

func (s *Server) dir() string { return filepath.Join(s.cfg.DataDir, "endpoints") }

func (s *Server) file(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(s.dir(), fmt.Sprintf("%x.json", sum[:16]))
}

// unfinished ends the name of a pod's file until its interface is complete.
const unfinished = ".unfinished"

// save writes pod's file, still marked as unfinished. It is in the page cache when save returns, which is all that surviving the agent's death takes; a power failure ends the containers too.
// A file is written once and never replaced: ext4 would write it out to the disk at once.
func (s *Server) save(pod *tables.LocalPod) error {
	body, err := json.Marshal(pod)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.file(pod.ID)+unfinished, body, 0o600); err != nil {
		return fmt.Errorf("write endpoint file: %w", err)
	}
	return nil
}

// finish takes the mark from a pod's file.
func (s *Server) finish(id string) error {
	if err := os.Rename(s.file(id)+unfinished, s.file(id)); err != nil {
		return fmt.Errorf("finish endpoint file: %w", err)
	}
	return nil
}

// load reads a pod's file, finished or not; nil if there is none.
func (s *Server) load(id string) *tables.LocalPod {
	for _, path := range []string{s.file(id), s.file(id) + unfinished} {
		pod := new(tables.LocalPod)
		if body, err := os.ReadFile(path); err == nil && json.Unmarshal(body, pod) == nil && pod.ID == id {
			return pod
		}
	}
	return nil
}

func (s *Server) forget(id string) error {
	for _, path := range []string{s.file(id), s.file(id) + unfinished} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove endpoint file: %w", err)
		}
	}
	return nil
}

// restore reads what an earlier agent wrote: whole pods become rows, the rest is removed, and so are addresses that no pod has.
func (s *Server) restore(ctx context.Context) error {
	log := klog.FromContext(ctx)
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.dir())
	if err != nil {
		return err
	}
	txn := s.cfg.Tables.DB.WriteTxn(s.cfg.Tables.LocalPods)
	defer txn.Abort()
	kept := map[string]bool{}
	for _, e := range entries {
		path := filepath.Join(s.dir(), e.Name())
		pod := new(tables.LocalPod)
		body, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(body, pod)
		}
		if err == nil && pod.ID != "" && path == s.file(pod.ID) && s.whole(pod) {
			if _, _, err := s.cfg.Tables.LocalPods.Insert(txn, pod); err != nil {
				return err
			}
			kept[pod.ID] = true
			continue
		}
		log.Info("Removing a pod interface that was not finished or has ended", "file", e.Name(), "id", pod.ID)
		if pod.HostIf != "" && !pod.Chained {
			if err := s.rec.removePair(pod.HostIf); err != nil {
				return err
			}
		}
		if pod.ID != "" {
			if _, err := s.cfg.Pool.Release(pod.ID); err != nil {
				return err
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for owner := range s.cfg.Pool.Owners() {
		if !kept[owner] {
			if _, err := s.cfg.Pool.Release(owner); err != nil {
				return err
			}
		}
	}
	txn.Commit()
	return nil
}

// whole says whether a pod's interface exists, and fills in its ifindex: the kernel removes it with the container's network namespace, or by a reboot. The names of our own are
// never used twice; another plugin's may be, so there the ifindex must be the same.
func (s *Server) whole(pod *tables.LocalPod) bool {
	if len(pod.IPs) == 0 || pod.HostIf == "" {
		return false
	}
	l, err := netlink.LinkByName(pod.HostIf)
	if err != nil || pod.Chained && l.Attrs().Index != pod.IfIndex {
		return false
	}
	pod.IfIndex = l.Attrs().Index
	pod.Netkit = !pod.Chained && l.Type() == "netkit"
	return true
}
