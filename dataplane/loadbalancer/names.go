// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cilium/statedb"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// NamesFile is the name of the file in Config.StateDir that gives kernel numbers their Kubernetes names.
const NamesFile = "names.json"

// Names is what the names file holds: enough for flctl to speak of services and pods with the agent down.
type Names struct {
	// Services by id of the service port, as in the map services.
	Services map[uint32]PortName `json:"services"`
	// Targets are the objects behind endpoint addresses, "namespace/name" for pods.
	Targets map[string]string `json:"targets"`
	// Mode and Dispatch say how backends on other nodes answer clients outside, where their Services say nothing else.
	Mode     Mode     `json:"mode,omitempty"`
	Dispatch Dispatch `json:"dispatch,omitempty"`
}

// PortName names a service port.
type PortName struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Port      string            `json:"port"` // name, may be empty
	Number    uint16            `json:"number"`
	Protocol  string            `json:"protocol"`
	IPv6      bool              `json:"ipv6,omitempty"`
	Kinds     map[string]string `json:"kinds,omitempty"` // frontend "addr:port" -> ClusterIP, NodePort, ...
}

func (p PortName) String() string {
	port := p.Port
	if port == "" {
		port = fmt.Sprint(p.Number)
	}
	return p.Namespace + "/" + p.Name + ":" + port
}

// ReadNames reads the names file of dir. A missing file gives empty names.
func ReadNames(dir string) (Names, error) {
	n := Names{Services: map[uint32]PortName{}, Targets: map[string]string{}}
	data, err := os.ReadFile(filepath.Join(dir, NamesFile))
	if errors.Is(err, os.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return n, fmt.Errorf("read names: %w", err)
	}
	if err := json.Unmarshal(data, &n); err != nil {
		return n, fmt.Errorf("read names: %w", err)
	}
	return n, nil
}

// namesWriter keeps the names file up to date in the background, with a pause between writes that grows with their cost.
type namesWriter struct {
	dir  string
	log  klog.Logger
	mode Mode
	how  Dispatch
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	ports  map[uint32]PortName
	idsOf  map[tables.Name][]uint32
	txn    statedb.ReadTxn
	slices statedb.Table[*tables.EndpointSlice]
}

func newNamesWriter(cfg *Config, log klog.Logger) *namesWriter {
	w := &namesWriter{
		dir: cfg.StateDir, log: log, mode: cmp.Or(cfg.Mode, SNAT), how: cmp.Or(cfg.Dispatch, DispatchIPIP), wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		ports: map[uint32]PortName{}, idsOf: map[tables.Name][]uint32{},
	}
	go w.run()
	return w
}

// update takes over the dirty services' names. Called by the reconciling goroutine only.
func (w *namesWriter) update(txn statedb.ReadTxn, t *tables.Tables, r *reconciler, dirty map[tables.Name]bool) {
	if w.dir == "" {
		return
	}
	w.mu.Lock()
	w.txn, w.slices = txn, t.EndpointSlices
	for name := range dirty {
		for _, id := range w.idsOf[name] {
			delete(w.ports, id)
		}
		delete(w.idsOf, name)
		st := r.services[name]
		if st == nil {
			continue
		}
		for id, p := range st.ports {
			w.ports[p.id] = portName(name, id, p)
			w.idsOf[name] = append(w.idsOf[name], p.id)
		}
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func portName(name tables.Name, id portID, p *portState) PortName {
	n := PortName{
		Namespace: name.Namespace, Name: name.Name, Port: p.name, Number: id.port, Protocol: id.proto.String(), IPv6: id.v6,
		Kinds: make(map[string]string, len(p.frontends)),
	}
	for _, f := range p.frontends {
		n.Kinds[keyString(f.key)] = f.kind
	}
	return n
}

// keyString writes a frontend as address:port.
func keyString(k loader.BPFServiceKey) string {
	return netip.AddrPortFrom(netip.AddrFrom16(k.Addr.B).Unmap(), loader.Ntohs(k.Port)).String()
}

func (w *namesWriter) run() {
	defer close(w.done)
	for {
		select {
		case <-w.stop:
			return
		case <-w.wake:
		}
		began := time.Now()
		if err := w.write(w.build()); err != nil {
			w.log.Error(err, "write names file")
		}
		select {
		case <-w.stop:
			return
		case <-time.After(min(max(200*time.Millisecond, 20*time.Since(began)), 10*time.Second)):
		}
	}
}

func (w *namesWriter) build() Names {
	w.mu.Lock()
	n := Names{Services: maps.Clone(w.ports), Targets: map[string]string{}, Mode: w.mode, Dispatch: w.how}
	txn, slices := w.txn, w.slices
	w.mu.Unlock()
	for s := range slices.All(txn) {
		for i := range s.Endpoints {
			if e := &s.Endpoints[i]; e.Target.Name != "" {
				n.Targets[e.Addr.String()] = e.Target.Namespace + "/" + e.Target.Name
			}
		}
	}
	return n
}

func (w *namesWriter) write(n Names) error {
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(w.dir, NamesFile+".tmp")
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(w.dir, NamesFile))
}

func (w *namesWriter) close() {
	close(w.stop)
	<-w.done
}
