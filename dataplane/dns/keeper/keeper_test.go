// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/dns/link"
	"github.com/fairlead/fairlead/dataplane/dns/nameserver"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// TestMain makes the test's executable the server's, too: the keeper under test starts real processes.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == nameserver.Name {
		if err := endWithParent(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(nameserver.Main())
	}
	os.Exit(m.Run())
}

// endWithParent has the kernel kill this process, a server, when the test's process ends: also when that is interrupted or out of time, and no cleanup runs.
func endWithParent() error {
	runtime.LockOSThread() // for the process's life: the setting is the thread's
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("ask to end with the test: %w", err)
	}
	return nil
}

// TestServersEndWithTheTest kills a test's process that keeps a server: as a time limit, an interruption or a crash would.
func TestServersEndWithTheTest(t *testing.T) {
	if log := os.Getenv(keptEnv); log != "" {
		n := newNode(t)
		n.cfg.LogFile = log
		n.keep(n.cfg)
		n.answers("web", "10.96.0.20")
		fmt.Println("keeps")
		select {} // until killed
	}
	n := &node{t: t, cfg: Config{LogFile: filepath.Join(t.TempDir(), "dns.log")}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestServersEndWithTheTest$")
	cmd.Env = append(os.Environ(), keptEnv+"="+n.cfg.LogFile)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "keeps"; {
	}
	if len(n.pids()) != 1 {
		t.Errorf("servers %v, want one", n.pids())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for deadline := time.Now().Add(10 * time.Second); len(n.pids()) > 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("servers %v outlive their test", n.pids())
		}
	}
}

// keptEnv is set, to the server's log, in the process that TestServersEndWithTheTest kills.
const keptEnv = "FAIRLEAD_TEST_KEPT_LOG"

// node is a node's tables and what its keepers share.
type node struct {
	t      *testing.T
	tables *tables.Tables
	cfg    Config
	port   int
}

func newNode(t *testing.T) *node {
	t.Helper()
	tb, err := tables.New()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n := &node{t: t, tables: tb, port: freePort(t)}
	n.cfg = Config{
		Tables: tb, RunDir: dir, LogFile: filepath.Join(dir, "dns.log"), Executable: self,
		Settings: link.Settings{Domain: "cluster.local", Listen: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port: n.port},
	}
	n.service("web", "10.96.0.20")
	t.Cleanup(func() {
		if s := (&keeper{Config: n.cfg}).dial(); s != nil { // no test leaves a server behind
			s.process.signal(unix.SIGKILL)
			s.close()
			link.Close(s.files)
		}
		if t.Failed() {
			log, _ := os.ReadFile(n.cfg.LogFile)
			t.Logf("the server's log:\n%s", log)
		}
	})
	return n
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (n *node) service(name, ip string) {
	n.t.Helper()
	w := n.tables.DB.WriteTxn(n.tables.Services)
	if _, _, err := n.tables.Services.Insert(w, &tables.Service{Name: tables.Name{Namespace: "default", Name: name}, ClusterIPs: []netip.Addr{netip.MustParseAddr(ip)}}); err != nil {
		n.t.Fatal(err)
	}
	w.Commit()
}

// keep runs a keeper until the returned function is called.
func (n *node) keep(cfg Config) (stop func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	})
	n.t.Cleanup(stop)
	return stop
}

// ask asks for a service's address as a resolver does that waits for patience.
func (n *node) ask(name string, patience time.Duration) (string, error) {
	c := &mdns.Client{Timeout: patience}
	r, _, err := c.Exchange(new(mdns.Msg).SetQuestion(name+".default.svc.cluster.local.", mdns.TypeA), fmt.Sprint("127.0.0.1:", n.port))
	if err != nil {
		return "", err
	}
	if len(r.Answer) != 1 {
		return mdns.RcodeToString[r.Rcode], nil
	}
	return r.Answer[0].(*mdns.A).A.String(), nil
}

// answers waits until the service has the address.
func (n *node) answers(name, want string) {
	n.t.Helper()
	var got string
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		if got, err = n.ask(name, time.Second); err == nil && got == want {
			return
		}
	}
	n.t.Fatalf("%s: %q %v, want %q", name, got, err, want)
}

// pid is the server's that listens for agents. It must not be asked for while a keeper runs, whose connection it would end.
func (n *node) pid() int {
	n.t.Helper()
	s := (&keeper{Config: n.cfg}).dial()
	if s == nil {
		n.t.Fatal("no server runs")
	}
	defer s.close()
	link.Close(s.files)
	return s.process.pid
}

// pids are those of the servers started so far, from the processes that have the test's run directory's log open.
func (n *node) pids() []int {
	n.t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/fd/2")
	if err != nil {
		n.t.Fatal(err)
	}
	var out []int
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == n.cfg.LogFile {
			var pid int
			fmt.Sscanf(l, "/proc/%d/", &pid)
			out = append(out, pid)
		}
	}
	return out
}

func TestServerOutlivesTheAgent(t *testing.T) {
	n := newNode(t)
	stop := n.keep(n.cfg)
	n.answers("web", "10.96.0.20")
	stop()
	if got, err := n.ask("web", time.Second); err != nil || got != "10.96.0.20" {
		t.Errorf("with no agent: %q %v", got, err)
	}
	before := n.pid()
	n.service("late", "10.96.0.21") // while nobody feeds the server
	w := n.tables.DB.WriteTxn(n.tables.Services)
	n.tables.Services.Delete(w, &tables.Service{Name: tables.Name{Namespace: "default", Name: "web"}})
	w.Commit()
	stop = n.keep(n.cfg)
	n.answers("late", "10.96.0.21")
	n.answers("web", "NXDOMAIN")
	n.service("later", "10.96.0.22")
	n.answers("later", "10.96.0.22")
	stop()
	if after := n.pid(); after != before {
		t.Errorf("the server was replaced: process %d, then %d", before, after)
	}
}

// load asks from many clients until stop; a client repeats a question once when it was not answered within patience.
func (n *node) load(clients int, patience time.Duration) (stop func() (asked, repeated, lost int64)) {
	var sent, again, never atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				sent.Add(1)
				if got, err := n.ask("web", patience); err == nil && got == "10.96.0.20" {
					continue
				}
				again.Add(1)
				if got, err := n.ask("web", patience); err != nil || got != "10.96.0.20" {
					never.Add(1)
					n.t.Errorf("unanswered after the repetition: %q %v", got, err)
				}
			}
		})
	}
	return func() (int64, int64, int64) {
		close(done)
		wg.Wait()
		return sent.Load(), again.Load(), never.Load()
	}
}

// TestKilledServerLeavesNoQuestionUnanswered kills the server with -9 under load, ten times; a resolver's one repetition, after the five seconds of musl's and glibc's default, must do.
func TestKilledServerLeavesNoQuestionUnanswered(t *testing.T) {
	n := newNode(t)
	n.keep(n.cfg)
	n.answers("web", "10.96.0.20")
	stop := n.load(8, 5*time.Second)
	for range 10 {
		pids := n.pids()
		if len(pids) != 1 {
			t.Fatalf("servers %v, want one", pids)
		}
		if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(20 * time.Second)
		for now := n.pids(); len(now) != 1 || now[0] == pids[0]; now = n.pids() {
			if time.Now().After(deadline) {
				t.Fatalf("servers %v, want one in place of %d", now, pids[0])
			}
		}
		n.answers("web", "10.96.0.20")
	}
	asked, repeated, lost := stop()
	t.Logf("%d questions, %d repeated, %d unanswered", asked, repeated, lost)
	if asked < 100 || lost > 0 {
		t.Errorf("%d of %d questions unanswered after one repetition", lost, asked)
	}
}

func TestOtherVersionTakesOverWithoutAQuestionLost(t *testing.T) {
	n := newNode(t)
	stop := n.keep(n.cfg)
	n.answers("web", "10.96.0.20")
	stop()
	before := n.pids()
	stopLoad := n.load(4, 5*time.Second)
	other := n.cfg
	other.Settings.Upstreams = []string{"127.0.0.1:9"}
	stop = n.keep(other)
	deadline := time.Now().Add(30 * time.Second)
	now := n.pids()
	for ; len(now) != 1 || now[0] == before[0]; now = n.pids() {
		if time.Now().After(deadline) {
			t.Fatalf("servers %v, want one other than %v", now, before)
		}
	}
	n.answers("web", "10.96.0.20")
	asked, repeated, lost := stopLoad()
	t.Logf("%d questions, %d repeated, %d unanswered", asked, repeated, lost)
	if repeated > 0 {
		t.Errorf("%d of %d questions had to be repeated", repeated, asked)
	}
	stop()
}

func TestCompleteServerIsNotReplacedByOneThatKnowsLess(t *testing.T) {
	n := newNode(t)
	stop := n.keep(n.cfg)
	n.answers("web", "10.96.0.20")
	stop()
	before := n.pids()
	tb, err := tables.New("api") // a new agent's, whose API server is away
	if err != nil {
		t.Fatal(err)
	}
	other := n.cfg
	other.Tables, other.Settings.Upstreams = tb, []string{"127.0.0.1:9"}
	n.keep(other)
	for until := time.Now().Add(500 * time.Millisecond); time.Now().Before(until); runtime.Gosched() {
		if got, err := n.ask("web", time.Second); err != nil || got != "10.96.0.20" {
			t.Fatalf("while the new agent knows nothing: %q %v", got, err)
		}
	}
	if now := n.pids(); len(now) != 1 || now[0] != before[0] {
		t.Fatalf("servers %v, want still %v", now, before)
	}
	w := tb.DB.WriteTxn(tb.Services, tb.EndpointSlices, tb.Nodes)
	if _, _, err := tb.Services.Insert(w, &tables.Service{Name: tables.Name{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.30")}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tb.Filled(w, "services", "api"), tb.Filled(w, "endpointslices", "api")); err != nil {
		t.Fatal(err)
	}
	w.Commit()
	n.answers("web", "10.96.0.30")
	deadline := time.Now().Add(20 * time.Second)
	for now := n.pids(); len(now) != 1 || now[0] == before[0]; now = n.pids() {
		if time.Now().After(deadline) {
			t.Fatalf("servers %v, want one other than %v", now, before)
		}
	}
}

// TestCorefileIsFollowed changes and deletes the cluster's Corefile while an agent runs and while none does. Time to live tells the Corefiles apart.
func TestCorefileIsFollowed(t *testing.T) {
	n := newNode(t)
	corefile := func(ttl int) string {
		return fmt.Sprintf(".:{{PORT}} {\n bind {{BIND}}\n fairlead {{DOMAIN}} {\n ttl %d\n }\n}\n", ttl)
	}
	const byDefault = 5
	ttl := func(want uint32) {
		t.Helper()
		var r *mdns.Msg
		var err error
		c := &mdns.Client{Timeout: time.Second}
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
			r, _, err = c.Exchange(new(mdns.Msg).SetQuestion("web.default.svc.cluster.local.", mdns.TypeA), fmt.Sprint("127.0.0.1:", n.port))
			if err == nil && len(r.Answer) == 1 && r.Answer[0].Header().Ttl == want {
				return
			}
		}
		t.Fatalf("answered %v %v, want a time to live of %d", r, err, want)
	}
	keep := func(first string) (next chan<- string, stop func()) {
		texts := make(chan string, 1)
		texts <- first
		cfg := n.cfg
		cfg.Corefiles = texts
		return texts, n.keep(cfg)
	}
	next, stop := keep(corefile(11))
	ttl(11)
	next <- corefile(12)
	ttl(12)
	next <- "" // deleted
	ttl(byDefault)
	next <- corefile(13)
	ttl(13)
	stop()
	ttl(13)
	_, stop = keep(corefile(14)) // changed while nobody followed
	ttl(14)
	stop()
	_, stop = keep("") // deleted while nobody followed
	ttl(byDefault)
	stop()
	if len(n.pids()) != 1 {
		t.Errorf("servers %v, want one all the time", n.pids())
	}
}

func TestSilentServerIsReplaced(t *testing.T) {
	n := newNode(t)
	n.keep(n.cfg)
	n.answers("web", "10.96.0.20")
	pid := n.pids()[0]
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(servePatience + 10*time.Second) // the longest that a silent server is borne
	for now := n.pids(); len(now) != 1 || now[0] == pid; now = n.pids() {
		if time.Now().After(deadline) {
			t.Fatalf("servers %v, want one in place of %d", now, pid)
		}
	}
	n.answers("web", "10.96.0.20")
}

// TestAbsentServerIsTold has a program as server that ends at once.
func TestAbsentServerIsTold(t *testing.T) {
	n := newNode(t)
	told := make(chan bool, 8)
	cfg := n.cfg
	cfg.Executable = "/bin/false"
	cfg.Health = func(answers bool, _ []netip.Addr) { told <- answers }
	stop := n.keep(cfg)
	select {
	case answers := <-told:
		if answers {
			t.Error("a server that ends at once is said to answer")
		}
	case <-time.After(startGrace + 20*time.Second):
		t.Fatal("nobody was told that there is no server")
	}
	if _, err := n.ask("web", 5*time.Second); err == nil || os.IsTimeout(err) {
		t.Errorf("question without a server: %v, want it to be refused at once", err)
	}
	stop()
	cfg.Executable = n.cfg.Executable
	n.keep(cfg)
	select {
	case answers := <-told:
		if !answers {
			t.Error("a server that answers is said not to")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nobody was told that the server answers")
	}
}
