// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Sandbox is the handle of one sandbox on this machine, running or not.
type Sandbox struct {
	Name string
	Dir  string // everything the sandbox keeps: state.json, kubeconfig, nodes/NAME/{data,log,tmp,...}
	Bin  string // directory of fairlead and flctl; empty means that of the running executable
}

// DefaultDir is where sandboxes are kept.
const DefaultDir = "/var/lib/fairlead-sandbox"

// Open returns the handle of the sandbox called name below dir; nothing is created.
func Open(dir, name string) (*Sandbox, error) {
	if name == "" || filepath.Base(name) != name || name[0] == '.' {
		return nil, fmt.Errorf("sandbox name %q: want a plain word such as %q", name, "dev")
	}
	return &Sandbox{Name: name, Dir: filepath.Join(dir, name)}, nil
}

// State is what is written down about a running sandbox.
type State struct {
	Topology Topology       `json:"topology"`
	APIPort  int            `json:"apiPort"` // of 127.0.0.1 on the host: any server answers there, of several the i-th alone at APIPort+i
	Created  time.Time      `json:"created"`
	Inits    map[string]int `json:"inits"` // host name -> pid of its init in the host's pid namespace
}

func (s *Sandbox) cgroup() string             { return "fairlead-sandbox-" + s.Name }
func (s *Sandbox) hostCgroup(h string) string { return s.cgroup() + "/" + h }
func (s *Sandbox) stateFile() string          { return filepath.Join(s.Dir, "state.json") }
func (s *Sandbox) nodeDir(h string) string    { return filepath.Join(s.Dir, "nodes", h) }
func (s *Sandbox) socket(h string) string     { return filepath.Join(s.Dir, "ctl", h+".sock") }

// Kubeconfig is the file with which the host's kubectl reaches the cluster.
func (s *Sandbox) Kubeconfig() string { return filepath.Join(s.Dir, "kubeconfig") }

// LogFile is where the main process of host h writes.
func (s *Sandbox) LogFile(h string) string { return filepath.Join(s.nodeDir(h), "log", "fairlead.log") }

// ErrNotUp is returned for a sandbox that does not run.
var ErrNotUp = errors.New("the sandbox is not up; start it with `fairlead sandbox up`")

// Load reads the state; ErrNotUp when there is none.
func (s *Sandbox) Load() (State, error) {
	var st State
	b, err := os.ReadFile(s.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return st, ErrNotUp
	}
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("%s is damaged (%w); `fairlead sandbox down` cleans up", s.stateFile(), err)
	}
	return st, nil
}

func (s *Sandbox) save(st State) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	return writeAtomic(s.stateFile(), b, 0o600)
}

// writeAtomic replaces path as a whole, so that a reader or a crash never sees half of it.
func writeAtomic(path string, b []byte, mode fs.FileMode) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// lock keeps two commands from changing the sandbox at once; the returned function releases it.
func (s *Sandbox) lock() (func(), error) {
	if err := os.MkdirAll(filepath.Dir(s.Dir), 0o755); err != nil {
		return nil, err
	}
	for {
		f, err := os.OpenFile(s.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, fmt.Errorf("another command is changing sandbox %q; wait for it to end", s.Name)
		}
		// Down removes the file while it holds the lock: a lock on a removed file keeps nobody out.
		held, err := f.Stat()
		if err == nil {
			if now, err := os.Stat(s.lockFile()); err == nil && os.SameFile(held, now) {
				return func() { f.Close() }, nil
			}
		}
		f.Close()
	}
}

func (s *Sandbox) lockFile() string { return s.Dir + ".lock" }
