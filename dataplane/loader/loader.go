// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// LayoutVersion is the version of all pinned map layouts. Raise it with any change of a map's type, flags, key or value struct; what the maps hold is carried over (migrate.go).
const LayoutVersion = 1

// DefaultPinDir is where maps and links are pinned unless Config says otherwise.
const DefaultPinDir = "/sys/fs/bpf/fairlead"

// Config says where a node's kernel objects are kept. Several nodes may share one kernel, each with its own PinDir.
type Config struct {
	// PinDir is a directory on a bpffs; created, and a bpffs mounted on it, when it is not on one. Empty: DefaultPinDir.
	PinDir string
	// MapSizes overrides max_entries by map name. It takes effect when the map is first created.
	MapSizes map[string]uint32
	// NoTCX attaches to devices as on kernels before 6.6, by filters of clsact.
	NoTCX bool
}

// Loader loads and attaches programs for one PinDir. Load may be called concurrently; the other methods may be for different names.
type Loader struct {
	loading sync.Mutex // two collections that share a map must not both find it unpinned

	cfg     Config
	maps    string // directory of map pins
	links   string // directory of link pins
	filters string // directory of the pins of programs that are filters of clsact
}

// Open prepares cfg.PinDir and returns a Loader for it.
func Open(cfg Config) (*Loader, error) {
	if cfg.PinDir == "" {
		cfg.PinDir = DefaultPinDir
	}
	release, err := kernelRelease()
	if err == nil {
		err = checkKernel(release)
	}
	if err != nil {
		return nil, err
	}
	// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK; later ones do not, and there failing to raise it does no harm.
	if err := rlimit.RemoveMemlock(); err != nil && !errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("raise RLIMIT_MEMLOCK for BPF maps: %w", err)
	}
	if err := Probe(); err != nil { // a kernel new enough may be built without what is needed
		return nil, fmt.Errorf("nothing was loaded: %w", err)
	}
	if err := ensureBPFFS(cfg.PinDir); err != nil {
		return nil, err
	}
	l := &Loader{cfg: cfg, maps: MapDir(cfg.PinDir), links: filepath.Join(cfg.PinDir, "links"), filters: filterDir(cfg.PinDir)}
	if !l.cfg.NoTCX {
		l.cfg.NoTCX = !haveTCX()
	}
	for _, dir := range []string{l.maps, l.links, l.filters} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("create pin directory: %w", err)
		}
	}
	return l, nil
}

// MapDir returns the directory below pinDir that holds the maps of this release's layout.
func MapDir(pinDir string) string {
	if pinDir == "" {
		pinDir = DefaultPinDir
	}
	return filepath.Join(pinDir, fmt.Sprintf("maps-v%d", LayoutVersion))
}

// PinDir returns the directory this loader pins below.
func (l *Loader) PinDir() string { return l.cfg.PinDir }

// Load loads spec with the given .rodata constants (by C variable name; a constant that spec lacks is ignored, so that one set
// serves all collections). Maps pinned by name are shared with earlier loads. The caller closes the collection; pins stay.
func (l *Loader) Load(spec *ebpf.CollectionSpec, constants map[string]any) (*ebpf.Collection, error) {
	l.loading.Lock()
	defer l.loading.Unlock()
	spec = spec.Copy()
	for name, value := range constants {
		v, ok := spec.Variables[name]
		if !ok {
			continue
		}
		if err := v.Set(value); err != nil {
			return nil, fmt.Errorf("set constant %s to %v: %w", name, value, err)
		}
	}
	for name, m := range spec.Maps {
		if n, ok := l.cfg.MapSizes[name]; ok && n > 0 {
			m.MaxEntries = n
		}
		if m.Pinning == ebpf.PinByName {
			if err := l.inherit(name, m); err != nil {
				return nil, err
			}
			if err := l.adoptSize(name, m); err != nil {
				return nil, err
			}
		}
	}
	bridges, err := l.bridge(spec)
	defer func() {
		for _, m := range bridges {
			m.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: l.maps}})
	if err != nil {
		if errors.Is(err, ebpf.ErrMapIncompatible) {
			return nil, fmt.Errorf("a map pinned in %s differs from this release's layout %d though the version is equal; "+
				"run with --uninstall to start afresh: %w", l.maps, LayoutVersion, err)
		}
		return nil, fmt.Errorf("load eBPF collection: %w", describe(err))
	}
	return coll, nil
}

// adoptSize takes max_entries from the pinned map, if there is one: a changed size setting must not make a node refuse its own maps.
func (l *Loader) adoptSize(name string, spec *ebpf.MapSpec) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(l.maps, name), &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pinned map %s: %w", name, err)
	}
	defer m.Close()
	spec.MaxEntries = m.MaxEntries()
	return nil
}

// Uninstall detaches every pinned link and removes every pin below PinDir, also of other layout versions.
func (l *Loader) Uninstall() error {
	if err := l.removeFilters(""); err != nil {
		return err
	}
	for _, dir := range []string{l.links, l.filters} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("detach links: %w", err)
		}
	}
	layouts, err := filepath.Glob(filepath.Join(l.cfg.PinDir, "maps-v*"))
	if err != nil {
		return fmt.Errorf("list pinned maps: %w", err)
	}
	for _, dir := range layouts {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove pinned maps: %w", err)
		}
	}
	return nil
}

// ensureBPFFS makes dir a directory on a bpffs.
func ensureBPFFS(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("create pin directory: %w", err)
	}
	var fs unix.Statfs_t
	if err == nil {
		if err = unix.Statfs(dir, &fs); err == nil && fs.Type == unix.BPF_FS_MAGIC {
			return nil
		}
	}
	target := dir
	if err != nil {
		// sysfs does not let directories be made; its own mount point for bpffs does exist.
		target = "/sys/fs/bpf"
	}
	if merr := unix.Mount("bpf", target, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); merr != nil {
		return fmt.Errorf("mount bpffs on %s (needs CAP_SYS_ADMIN): %w", target, merr)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create pin directory: %w", err)
	}
	return nil
}
