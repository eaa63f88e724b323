// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/dataplane/dns/directory"
	"github.com/fairlead/fairlead/dataplane/dns/feed"
	"github.com/fairlead/fairlead/dataplane/dns/link"
)

const (
	servePatience = 20 * time.Second // from the first connection to answers
	probeInterval = time.Second
	probeTimeout  = 2 * time.Second
	probeFailures = 3 // in a row: the server is killed
)

// errComplete ends the attendance of a server that is to be replaced once the tables are complete.
var errComplete = errors.New("the tables are complete")

// attend feeds the server until it or ctx ends.
func (k *keeper) attend(ctx context.Context, s *server) error {
	defer s.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { s.conn.Close() }) // ends reads and writes
	defer stop()
	to := &sender{messages: gob.NewEncoder(s.conn)}
	var wg sync.WaitGroup
	wg.Go(func() {
		cancel(feed.Follow(ctx, k.Tables, !s.hello.Complete, func(b *directory.Batch) error {
			if s.early && b.Complete {
				return errComplete
			}
			return to.send(&link.Message{Batch: b})
		}))
	})
	wg.Go(func() { cancel(k.sendCorefiles(ctx, to)) })
	silent := time.AfterFunc(servePatience, func() { s.process.signal(unix.SIGKILL) }) // it hangs before it can be asked
	defer silent.Stop()
	reports := gob.NewDecoder(bufio.NewReader(s.conn))
	for {
		var r link.Report
		if err := reports.Decode(&r); err != nil {
			cancel(err)
			break
		}
		if r.Serving {
			silent.Stop()
			k.back()
			wg.Go(func() { k.probe(ctx, s.process) })
		}
	}
	wg.Wait()
	if err := context.Cause(ctx); errors.Is(err, errComplete) {
		return err
	}
	return fmt.Errorf("its connection ended: %w", context.Cause(ctx))
}

// sender is the sending side of a connection.
type sender struct {
	mu       sync.Mutex
	messages *gob.Encoder
}

func (s *sender) send(m *link.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.messages.Encode(m)
}

// sendCorefiles sends the cluster's Corefile as soon as it is known, since a server that was taken over may have missed a change, and whenever it changes. (The server ignores one that it has.)
func (k *keeper) sendCorefiles(ctx context.Context, s *sender) error {
	var sent *string
	for {
		text, known, changed := k.currentCorefile()
		if known && (sent == nil || *sent != text) {
			if err := s.send(&link.Message{Corefile: &link.Corefile{Text: text}}); err != nil {
				return err
			}
			sent = &text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// probe asks the server a question now and then, and kills it when it does not answer several in a row: its connection's end then starts the next one.
func (k *keeper) probe(ctx context.Context, p *process) {
	if len(k.Settings.Listen) == 0 {
		return
	}
	at := netip.AddrPortFrom(k.Settings.Listen[0], uint16(k.Settings.Port)).String()
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	client := &mdns.Client{Timeout: probeTimeout}
	for failed := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, _, err := client.ExchangeContext(ctx, new(mdns.Msg).SetQuestion("dns-version."+mdns.Fqdn(k.Settings.Domain), mdns.TypeTXT), at)
		if err == nil || ctx.Err() != nil {
			failed = 0
			continue
		}
		if failed++; failed == probeFailures {
			k.log.Error(err, "The DNS server does not answer; killing it", "pid", p.pid, "address", at)
			p.signal(unix.SIGKILL)
			return
		}
	}
}
