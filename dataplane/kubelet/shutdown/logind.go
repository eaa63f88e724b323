// SPDX-License-Identifier: Apache-2.0

package shutdown

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	logind       = "org.freedesktop.login1"
	logindPath   = dbus.ObjectPath("/org/freedesktop/login1")
	logindObject = logind + ".Manager"
	systemd      = "org.freedesktop.systemd1"
	systemdPath  = dbus.ObjectPath("/org/freedesktop/systemd1")

	reconnectPeriod = 5 * time.Second
	reloadTimeout   = 10 * time.Second
	callTimeout     = 10 * time.Second
	dropIn          = "99-fairlead.conf"
)

var (
	errBusLost    = errors.New("connection to the system bus was lost")
	errShortDelay = errors.New("logind lets nothing delay a shutdown for as long as the shutdown periods together; raise InhibitDelayMaxSec in logind.conf")
)

// Run holds logind's inhibitor lock and ends pods when a shutdown begins, until ctx ends. Where there is no logind it says so once and waits for
// one; without periods it returns at once.
func (w *Watcher) Run(ctx context.Context) {
	if total(w.periods) == 0 {
		return
	}
	log := klog.FromContext(ctx)
	told := ""
	for ctx.Err() == nil {
		err := w.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if text := fmt.Sprint(err); text != told {
			log.Info("Shutdowns of this machine are not delayed for pods", "err", err)
			told = text
		}
		select {
		case <-time.After(reconnectPeriod):
		case <-ctx.Done():
		}
	}
}

// watch serves one connection to the bus.
func (w *Watcher) watch(ctx context.Context) error {
	bus, err := dbus.Connect(w.cfg.SystemBus, dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("system bus %s: %w", w.cfg.SystemBus, err)
	}
	defer bus.Close()
	manager := bus.Object(logind, logindPath)
	if err := w.allowDelay(ctx, bus, manager); err != nil {
		if !errors.Is(err, errShortDelay) {
			return err
		}
		klog.FromContext(ctx).Error(err, "Pods may be cut short at shutdown", "needed", total(w.periods))
	}
	signals := make(chan *dbus.Signal, 4)
	bus.Signal(signals)
	if err := bus.AddMatchSignalContext(ctx, dbus.WithMatchObjectPath(logindPath), dbus.WithMatchInterface(logindObject),
		dbus.WithMatchMember("PrepareForShutdown")); err != nil {
		return fmt.Errorf("listen to logind: %w", err)
	}
	lock, err := inhibit(ctx, manager)
	if err != nil {
		return err
	}
	defer func() { unix.Close(lock) }()
	klog.FromContext(ctx).Info("Shutdowns of this machine wait for pods", "atMost", total(w.periods))
	for {
		select {
		case <-ctx.Done():
			return nil
		case signal, open := <-signals:
			if !open {
				return errBusLost
			}
			starts, ok := false, false
			if len(signal.Body) == 1 {
				starts, ok = signal.Body[0].(bool)
			}
			switch {
			case !ok:
			case starts:
				w.Shutdown(ctx)
				unix.Close(lock)
				lock = -1
			default: // called off
				w.cancel()
				if lock < 0 {
					if lock, err = inhibit(ctx, manager); err != nil {
						return err
					}
				}
			}
		}
	}
}

// inhibit takes the lock; closing the file descriptor gives it back.
func inhibit(ctx context.Context, manager dbus.BusObject) (int, error) {
	var fd dbus.UnixFD
	err := manager.CallWithContext(ctx, logindObject+".Inhibit", 0, "shutdown", "fairlead", "Pods are ended in order of priority", "delay").Store(&fd)
	if err != nil {
		return -1, fmt.Errorf("delay shutdowns at logind: %w", err)
	}
	unix.CloseOnExec(int(fd))
	return int(fd), nil
}

// allowDelay makes logind wait long enough: its default is five seconds.
func (w *Watcher) allowDelay(ctx context.Context, bus *dbus.Conn, manager dbus.BusObject) error {
	needed := total(w.periods)
	longest, err := longestDelay(ctx, manager)
	if err != nil || longest >= needed {
		return err
	}
	text := fmt.Sprintf("# Written by fairlead for its shutdown periods.\n[Login]\nInhibitDelayMaxSec=%d\n", int((needed+time.Second-1)/time.Second))
	if err := errors.Join(os.MkdirAll(w.cfg.DropIns, 0o755), os.WriteFile(filepath.Join(w.cfg.DropIns, dropIn), []byte(text), 0o644)); err != nil {
		return fmt.Errorf("%w (%w)", errShortDelay, err)
	}
	call := bus.Object(systemd, systemdPath).CallWithContext(ctx, systemd+".Manager.KillUnit", 0, "systemd-logind.service", "all", int32(unix.SIGHUP))
	if call.Err != nil {
		return fmt.Errorf("%w (logind did not read its configuration again: %w)", errShortDelay, call.Err)
	}
	for deadline := time.Now().Add(reloadTimeout); time.Now().Before(deadline); {
		if longest, err = longestDelay(ctx, manager); err != nil || longest >= needed {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errShortDelay
}

// property reads one; unlike the library's own it ends with ctx.
func property(ctx context.Context, object dbus.BusObject, face, name string) (value dbus.Variant, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = object.CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, face, name).Store(&value)
	return value, err
}

func longestDelay(ctx context.Context, manager dbus.BusObject) (time.Duration, error) {
	value, err := property(ctx, manager, logindObject, "InhibitDelayMaxUSec")
	if err != nil {
		return 0, fmt.Errorf("logind: %w", err)
	}
	us, ok := value.Value().(uint64)
	if !ok {
		return 0, fmt.Errorf("logind: InhibitDelayMaxUSec is %s", value)
	}
	return time.Duration(min(us, uint64(1<<53))) * time.Microsecond, nil
}

// GoingDown tells, for an agent that was told to end, whether the machine is shutting down.
func (w *Watcher) GoingDown(ctx context.Context) bool {
	if total(w.periods) == 0 {
		return false
	}
	if w.cfg.OnTerm || w.Active() {
		return true
	}
	bus, err := dbus.Connect(w.cfg.SystemBus, dbus.WithContext(ctx))
	if err != nil {
		return false
	}
	defer bus.Close()
	state, err := property(ctx, bus.Object(systemd, systemdPath), systemd+".Manager", "SystemState")
	return err == nil && state.Value() == "stopping"
}
