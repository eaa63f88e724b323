// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead/fairlead/dataplane/dns/control"
	"github.com/fairlead/fairlead/dataplane/dns/directory"
)

// serveControl answers root's questions about the server on a unix socket: GET /info, /top?n=, /trace?name=&type=&from=. stop closes it and waits.
func serveControl(cfg Config) (stop func(), err error) {
	if err := os.MkdirAll(filepath.Dir(cfg.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("directory of the DNS socket: %w", err)
	}
	if err := os.Remove(cfg.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the former DNS socket: %w", err)
	}
	l, err := net.Listen("unix", cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("listen for flctl: %w", err)
	}
	if err := os.Chmod(cfg.Socket, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	zone := &Zone{Domain: strings.ToLower(dns.Fqdn(cfg.Domain)), TTL: defaultTTL, Pods: PodsInsecure, Directory: cfg.Directory}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) { reply(w, cfg.info(zone)) })
	mux.HandleFunc("GET /top", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.FormValue("n"))
		if err != nil || n < 1 {
			n = 20
		}
		reply(w, asked.top(n))
	})
	mux.HandleFunc("GET /trace", func(w http.ResponseWriter, r *http.Request) {
		qtype, ok := dns.StringToType[strings.ToUpper(r.FormValue("type"))]
		if _, good := dns.IsDomainName(r.FormValue("name")); !ok || !good {
			http.Error(w, "want name= and type= as in a question", http.StatusBadRequest)
			return
		}
		reply(w, zone.trace(r.FormValue("name"), qtype, r.FormValue("from")))
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }() // always http.ErrServerClosed
	return func() { server.Close(); <-done }, nil
}

func (cfg Config) info(z *Zone) control.Info {
	i := control.Info{Domain: z.Domain, Ready: z.Directory.Complete()}
	listen := cfg.Listen
	if len(listen) == 0 {
		listen = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	for _, a := range listen {
		i.Servers = append(i.Servers, netip.AddrPortFrom(a, uint16(cfg.port())).String())
	}
	return i
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the asker is gone: nobody to tell
}

// trace says step by step what the server would do with a question, from the tables as they are.
func (z *Zone) trace(name string, qtype uint16, from string) []string {
	name = strings.ToLower(dns.Fqdn(name))
	steps := []string{fmt.Sprintf("question %s %s", name, dns.TypeToString[qtype])}
	say := func(format string, args ...any) { steps = append(steps, fmt.Sprintf(format, args...)) }
	if !z.Directory.Complete() {
		say("the tables are not complete yet: SERVFAIL for names of the cluster")
	}
	if !dns.IsSubDomain(z.Domain, name) {
		say("not below %s: reverse names are looked up by address, others go to the upstream servers", z.Domain)
		return steps
	}
	labels := strings.Split(strings.TrimSuffix(strings.TrimSuffix(name, z.Domain), "."), ".")
	if n := len(labels); n >= 3 && labels[n-1] == "svc" {
		steps = append(steps, z.traceService(directory.Name{Namespace: labels[n-2], Name: labels[n-3]})...)
	}
	a := z.Lookup(name, qtype)
	say("answer %s, %d records", dns.RcodeToString[a.Rcode], len(a.Answer))
	for _, rr := range a.Answer {
		say("  %s", rr)
	}
	if from != "" && a.Rcode == dns.RcodeNameError {
		s := &Search{Domain: z.Domain, Directory: z.Directory}
		base, ns, ok := s.split(name)
		switch {
		case !ok:
			say("search: the name is not of the form NAME.NAMESPACE.svc.%s", z.Domain)
		case !s.asksFrom(from, ns):
			say("search: %s is not the address of a pod of namespace %s on this node: the resolver walks its search list itself", from, ns)
		default:
			say("search: %s is a pod of namespace %s: the search list is walked here for %s", from, ns, base)
		}
	}
	return steps
}

// traceService says what is known of a service.
func (z *Zone) traceService(name directory.Name) (steps []string) {
	v := z.Directory.Read()
	defer v.Done()
	svc := v.Service(name)
	if svc == nil {
		return []string{fmt.Sprintf("service %s: none", name)}
	}
	if svc.External {
		return []string{fmt.Sprintf("service %s: external name %s", name, svc.Target)}
	}
	steps = []string{fmt.Sprintf("service %s: headless %t, addresses %v", name, svc.Headless, svc.ClusterIPs)}
	if svc.Headless {
		total := 0
		for _, s := range v.Slices(name) {
			total += len(s.Endpoints)
			steps = append(steps, fmt.Sprintf("slice %s: %d endpoints", s.Name, len(s.Endpoints)))
		}
		steps = append(steps, fmt.Sprintf("published %d of %d endpoints", len(z.endpoints(v, svc)), total))
	}
	return steps
}
