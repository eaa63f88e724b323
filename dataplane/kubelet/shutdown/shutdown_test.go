// SPDX-License-Identifier: Apache-2.0

package shutdown

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func pod(name string, priority int32, grace int64) *v1.Pod {
	p := &v1.Pod{}
	p.Name, p.UID = name, types.UID(name)
	p.Spec.Priority, p.Spec.TerminationGracePeriodSeconds = &priority, &grace
	return p
}

func TestPeriods(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"none":                  {Config{}, "[]"},
		"critical pods last":    {Config{Grace: 30 * time.Second, GraceCritical: 10 * time.Second}, "[{0 20s} {2000000000 10s}]"},
		"by priority, in order": {Config{ByPriority: []Period{{100, time.Second}, {0, time.Minute}}}, "[{0 1m0s} {100 1s}]"},
		"more than all":         {Config{Grace: time.Second, GraceCritical: time.Minute}, "error"},
		"both":                  {Config{Grace: time.Second, ByPriority: []Period{{0, 1}}}, "error"},
		"twice":                 {Config{ByPriority: []Period{{0, 1}, {0, 2}}}, "error"},
	} {
		periods, err := c.cfg.Periods()
		got := fmt.Sprint(periods)
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestPlan(t *testing.T) {
	periods := []Period{{0, 1}, {100, 2}, {1000, 3}, {5000, 4}}
	var got []string
	for _, g := range Plan(periods, []*v1.Pod{pod("below", -5, 0), pod("zero", 0, 0), pod("99", 99, 0), pod("100", 100, 0), pod("999", 999, 0), pod("6000", 6000, 0)}) {
		line := fmt.Sprint(int(g.Grace), ":")
		for _, p := range g.Pods {
			line += " " + p.Name
		}
		got = append(got, line)
	}
	if want := []string{"1: below zero 99", "2: 100 999", "4: 6000"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// fakePods end a while after they are told to; it notes what happens and when.
type fakePods struct {
	mu    sync.Mutex
	start time.Time
	pods  map[types.UID]time.Time // when each has ended
	takes map[types.UID]time.Duration
	all   []*v1.Pod
	notes []string
}

func (f *fakePods) note(format string, args ...any) {
	f.notes = append(f.notes, fmt.Sprintf("%v ", time.Since(f.start).Round(100*time.Millisecond))+fmt.Sprintf(format, args...))
}

func (f *fakePods) Pods() Pods {
	return Pods{
		List: func() []*v1.Pod { return f.all },
		Kill: func(pod *v1.Pod, grace time.Duration) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.note("%s has %v", pod.Name, grace)
			f.pods[pod.UID] = time.Now().Add(f.takes[pod.UID])
		},
		Ended: func(uid types.UID) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			end, told := f.pods[uid]
			return told && !time.Now().Before(end)
		},
		Changed: func() { f.mu.Lock(); defer f.mu.Unlock(); f.note("changed") },
	}
}

func TestShutdownInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakePods{start: time.Now(), pods: map[types.UID]time.Time{}, all: []*v1.Pod{pod("critical", 2000001000, 30), pod("a", 0, 5), pod("hangs", 7, 60)},
			takes: map[types.UID]time.Duration{"a": 2 * time.Second, "hangs": time.Hour, "critical": time.Second}}
		w, err := New(Config{Grace: 30 * time.Second, GraceCritical: 10 * time.Second}, f.Pods())
		if err != nil {
			t.Fatal(err)
		}
		w.Shutdown(t.Context())
		f.note("done")
		want := []string{"0s changed", "0s a has 5s", "0s hangs has 20s", "20s critical has 10s", "21s done"}
		if !slices.Equal(f.notes, want) {
			t.Errorf("%q, want %q", f.notes, want)
		}
		if !w.Active() {
			t.Error("not active")
		}
	})
}

// logindFake answers as logind and systemd do, on a bus of the test's own.
type logindFake struct {
	t      *testing.T
	bus    *dbus.Conn
	props  *prop.Properties
	locks  chan *os.File // the other end of each lock: it reads EOF when the lock is given back
	dropIn string
}

func (l *logindFake) Inhibit(what, who, _, mode string) (dbus.UnixFD, *dbus.Error) {
	if what != "shutdown" || who != "fairlead" || mode != "delay" {
		return 0, dbus.MakeFailedError(fmt.Errorf("inhibit %s %s %s", what, who, mode))
	}
	read, write, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	l.locks <- read
	// The reply carries a duplicate; ours is closed when the bus has sent it, which the other side's first use shows.
	l.t.Cleanup(func() { read.Close() })
	time.AfterFunc(time.Second, func() { write.Close() })
	return dbus.UnixFD(write.Fd()), nil
}

func (l *logindFake) KillUnit(unit, _ string, signal int32) *dbus.Error {
	if unit != "systemd-logind.service" || signal != 1 {
		return dbus.MakeFailedError(errors.New("unexpected"))
	}
	data, err := os.ReadFile(l.dropIn)
	var seconds uint64
	if err == nil {
		_, value, _ := strings.Cut(string(data), "InhibitDelayMaxSec=")
		_, err = fmt.Sscan(value, &seconds)
	}
	if err != nil {
		return dbus.MakeFailedError(err)
	}
	l.props.SetMust(logindObject, "InhibitDelayMaxUSec", seconds*1000000)
	return nil
}

// startBus runs a bus daemon that ends with the test.
func startBus(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "bus.conf")
	text := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>custom</type><listen>unix:path=` + filepath.Join(dir, "bus") + `</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("a bus daemon is needed (Debian: dbus-daemon): %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func startLogind(t *testing.T, address, dropIns string, delay time.Duration) *logindFake {
	t.Helper()
	bus, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	l := &logindFake{t: t, bus: bus, locks: make(chan *os.File, 4), dropIn: filepath.Join(dropIns, dropIn)}
	l.props, err = prop.Export(bus, logindPath, prop.Map{logindObject: {"InhibitDelayMaxUSec": {Value: uint64(delay / time.Microsecond), Writable: true}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(bus.Export(l, logindPath, logindObject), bus.Export(l, systemdPath, systemd+".Manager")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{logind, systemd} {
		if reply, err := bus.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
			t.Fatal(name, reply, err)
		}
	}
	return l
}

func (l *logindFake) prepare(starts bool) {
	l.t.Helper()
	if err := l.bus.Emit(logindPath, logindObject+".PrepareForShutdown", starts); err != nil {
		l.t.Fatal(err)
	}
}

func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("no " + what)
		panic("unreachable")
	}
}

// TestLogind: the delay is raised, the lock is held until pods have ended, and taken again when the shutdown is called off.
func TestLogind(t *testing.T) {
	address, dropIns := startBus(t), filepath.Join(t.TempDir(), "conf.d")
	l := startLogind(t, address, dropIns, 5*time.Second)
	changed, killed := make(chan struct{}, 4), make(chan string, 4)
	var mu sync.Mutex
	ended := false
	w, err := New(Config{Grace: 40 * time.Second, GraceCritical: 10 * time.Second, SystemBus: address, DropIns: dropIns}, Pods{
		List: func() []*v1.Pod {
			return []*v1.Pod{{Spec: v1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](3)}}}
		},
		Kill:    func(_ *v1.Pod, grace time.Duration) { killed <- grace.String() },
		Ended:   func(types.UID) bool { mu.Lock(); defer mu.Unlock(); return ended },
		Changed: func() { changed <- struct{}{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	defer running.Wait()
	defer cancel()
	lock := receive(t, "lock", l.locks)
	if data, err := os.ReadFile(l.dropIn); err != nil || !strings.Contains(string(data), "InhibitDelayMaxSec=40\n") {
		t.Errorf("the delay was not raised: %q %v", data, err)
	}
	released := make(chan error, 1)
	go func() {
		_, err := lock.Read(make([]byte, 1))
		released <- err
	}()
	l.prepare(true)
	receive(t, "change", changed)
	if got := receive(t, "kill", killed); got != "3s" || !w.Active() {
		t.Errorf("grace %s, active %v", got, w.Active())
	}
	select {
	case <-released:
		t.Error("the lock was given back while a pod runs")
	default:
	}
	mu.Lock()
	ended = true
	mu.Unlock()
	receive(t, "release of the lock", released)
	if started, done := w.Times(); started == 0 || done < started {
		t.Errorf("times %d %d", started, done)
	}
	l.prepare(false)
	receive(t, "change", changed)
	receive(t, "second lock", l.locks)
	if w.Active() {
		t.Error("still active after the shutdown was called off")
	}
	if w.GoingDown(ctx) {
		t.Error("systemd does not say that the machine stops")
	}
}
