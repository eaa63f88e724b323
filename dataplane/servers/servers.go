// SPDX-License-Identifier: Apache-2.0

// Package servers is a node's way to a cluster of several API servers: it dials whichever answers, without a load balancer between.
//
//	Service default/kubernetes (endpoints) --> List --> file, for the next start
//	client-go --DialContext--> the server that answered last, else the first other one that takes the connection
//
// A connection stays with its server. It ends when the server dies, when HTTP/2 pings get no answer, or when the server says
// three times that it is not ready; client-go then dials again and lands elsewhere. All API servers have one authority and the name "kubernetes"
// in common, by which they are verified; a node's certificate of the same authority is refused whatever names it carries.
package servers

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/util/connrotation"
)

const (
	// Name is what every API server's certificate names, whatever its addresses.
	Name = "kubernetes.default.svc"

	// stagger is how long a server has before the next one is tried beside it, dialTimeout how long it has in all.
	stagger     = 500 * time.Millisecond
	dialTimeout = 10 * time.Second
	keepAlive   = 30 * time.Second
	// avoidFor is how long a server that was not ready is tried last.
	avoidFor = time.Minute
)

// List is the cluster's API servers as this node knows them. It is safe for concurrent use.
type List struct {
	file     string
	first    string // HOST:PORT the node was told at its start; it stands for all of them
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	rotating *connrotation.Dialer

	mu      sync.Mutex
	known   []string // HOST:PORT, learned
	current string   // took the last connection
	avoid   map[string]time.Time
}

// Open returns the list for the server URL (https://HOST:PORT), with those other servers that an earlier run wrote to file.
func Open(file, server string) (*List, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("server %q: want https://HOST:PORT", server)
	}
	l := &List{file: file, first: u.Host, dial: (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext, avoid: map[string]time.Time{}}
	if u.Port() == "" {
		l.first = net.JoinHostPort(u.Hostname(), "443")
	}
	l.rotating = connrotation.NewDialer(l.any)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(data, &l.known) != nil {
		l.known = nil // it is only a memory: the first server knows the others
	}
	return l, nil
}

// DialContext connects to a server. What it is asked for is the first one's address, which stands for all; another address is dialled as it is.
func (l *List) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if address != l.first {
		return l.dial(ctx, network, address)
	}
	return l.rotating.DialContext(ctx, network, address)
}

// any connects to the first candidate that answers, starting another attempt whenever one fails or takes its time.
func (l *List) any(ctx context.Context, network, _ string) (net.Conn, error) {
	type outcome struct {
		conn    net.Conn
		address string
		err     error
	}
	candidates := l.candidates(time.Now())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outcomes := make(chan outcome, len(candidates))
	var errs []error
	running := 0
	for next := 0; ; {
		if next < len(candidates) {
			address := candidates[next]
			next++
			running++
			go func() {
				conn, err := l.dial(ctx, network, address)
				outcomes <- outcome{conn, address, err}
			}()
		}
		var later <-chan time.Time
		if next < len(candidates) {
			later = time.After(stagger)
		}
		select {
		case <-later:
			continue
		case o := <-outcomes:
			running--
			if o.err == nil {
				l.use(o.address)
				go func() { // those that are late are not needed
					for range running {
						if o := <-outcomes; o.err == nil {
							o.conn.Close()
						}
					}
				}()
				return o.conn, nil
			}
			errs = append(errs, o.err)
			if running == 0 && next == len(candidates) {
				return nil, fmt.Errorf("no API server can be reached: %w", errors.Join(errs...))
			}
		}
	}
}

// candidates are the addresses in the order in which to try them: the last good one, the others by chance, those to be avoided.
func (l *List) candidates(now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.known)
	if !slices.Contains(all, l.first) {
		all = append(all, l.first)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	rank := func(address string) int {
		switch {
		case now.Before(l.avoid[address]):
			return 2
		case address == l.current:
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b string) int { return rank(a) - rank(b) })
	return all
}

func (l *List) use(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = address
}

// Known returns the servers that were learned.
func (l *List) Known() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.known)
}

// learn replaces what is known and writes it down. An empty list is no news: the last server to leave takes its address along.
func (l *List) learn(addresses []string) error {
	slices.Sort(addresses)
	l.mu.Lock()
	if len(addresses) == 0 || slices.Equal(addresses, l.known) {
		l.mu.Unlock()
		return nil
	}
	l.known = addresses
	l.mu.Unlock()
	data, err := json.Marshal(addresses)
	if err != nil {
		return err
	}
	tmp := l.file + ".tmp"
	if err := errors.Join(os.MkdirAll(filepath.Dir(l.file), 0o700), os.WriteFile(tmp, data, 0o600)); err != nil {
		return fmt.Errorf("remember the API servers: %w", err)
	}
	return os.Rename(tmp, l.file)
}

// leave avoids the server in use for a while and closes the connections, so that the next ones go elsewhere. It does nothing when there is no other.
func (l *List) leave(now time.Time) (from string, left bool) {
	l.mu.Lock()
	from = l.current
	left = slices.ContainsFunc(l.known, func(a string) bool { return a != from && !now.Before(l.avoid[a]) })
	if left {
		l.avoid[from] = now.Add(avoidFor)
	}
	l.mu.Unlock()
	if left {
		l.rotating.CloseAll()
	}
	return from, left
}

// CloseAll closes all connections, so that new ones are made with whatever is right by then.
func (l *List) CloseAll() { l.rotating.CloseAll() }

// VerifyServer refuses the certificate of a node: nodes have certificates of the same authority and some say in the names that they carry.
func VerifyServer(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server presented no certificate")
	}
	subject := state.PeerCertificates[0].Subject
	if strings.HasPrefix(subject.CommonName, "system:node:") || slices.Contains(subject.Organization, "system:nodes") {
		return fmt.Errorf("the certificate of %q is a node's, not an API server's", subject.CommonName)
	}
	return nil
}
