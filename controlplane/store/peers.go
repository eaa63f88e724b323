// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"k8s.io/klog/v2"
)

const (
	// maxLearners is how many members may be joining at once. One: etcd starts a new member only if it knows exactly the members there are.
	maxLearners = 1
	// peersInterval is how often a leader looks for members to promote.
	peersInterval = 500 * time.Millisecond
	// tellEvery is how often a start that waits for other members says so.
	tellEvery = 10 * time.Second
)

// ErrRemoved ends a member that the others have removed from the cluster. Its data is of no use any more.
var ErrRemoved = errors.New("this server was removed from the etcd cluster; to take it in again, move its etcd data directory away and join it anew")

// initialCluster writes members as etcd wants to read them: NAME=URL,... The names of members that did not start yet do not matter.
func initialCluster(name, advertise string, members []Member) string {
	var out []string
	for _, m := range members {
		called := m.Name
		switch {
		case slices.Contains(m.PeerURLs, advertise):
			called = name
		case called == "":
			called = fmt.Sprintf("unstarted-%x", m.ID)
		}
		for _, u := range m.PeerURLs {
			out = append(out, called+"="+u)
		}
	}
	return strings.Join(out, ",")
}

// awaitMember waits until e takes part in its cluster: it is started, knows a leader, and votes.
func awaitMember(ctx context.Context, log klog.Logger, e *embed.Etcd) error {
	tell := time.NewTicker(tellEvery)
	defer tell.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	ready := e.Server.ReadyNotify()
	for {
		select {
		case <-ready:
			ready = nil
			if !e.Server.IsLearner() {
				return nil
			}
		case <-look.C:
			if ready == nil && !e.Server.IsLearner() {
				return nil
			}
		case err := <-e.Err():
			return err
		case <-e.Server.StopNotify():
			return stopped(e.Server)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tell.C:
			if ready == nil {
				log.Info("Waiting for the etcd cluster to let this member vote", "component", "etcd")
			} else {
				log.Info("Waiting for the other etcd members: more than half of them must run", "component", "etcd", "members", peerURLs(e.Server))
			}
		}
	}
}

// stopped says why member ended without having been asked to.
func stopped(member *etcdserver.EtcdServer) error {
	removed, ok := member.Cluster().(interface{ IsIDRemoved(types.ID) bool })
	if ok && removed.IsIDRemoved(member.MemberID()) {
		return ErrRemoved
	}
	return errors.New("the etcd member ended by itself, its log says why; when it was removed from the cluster while this server was down, " +
		"move its etcd data directory away and join it anew")
}

// watch delivers the error that ends the member to failed; it returns when the member has ended or stop is closed.
func watch(e *embed.Etcd, failed chan<- error, stop <-chan struct{}) {
	select {
	case err := <-e.Err():
		failed <- err
	case <-e.Server.StopNotify():
		failed <- stopped(e.Server)
	case <-stop:
	}
}

func peerURLs(member *etcdserver.EtcdServer) []string {
	var out []string
	for _, m := range member.Cluster().Members() {
		out = append(out, m.PeerURLs...)
	}
	slices.Sort(out)
	return out
}

// peers keeps the membership right while the member runs: its own peer URL, and, while it leads, the promotion of learners that caught up.
type peers struct {
	log    klog.Logger
	member *etcdserver.EtcdServer
	client *clientv3.Client
	// announced is the peer URL of this member that the others should know; present is Peer.Advertised.
	announced string
	present   func() string
	// candidate is what present said the last looks times, when it is not what is announced.
	candidate string
	looks     int
}

// settled is how many looks in a row must see a new address before it is announced: an address that comes and goes would keep the members busy.
const settled = 10

// look takes a new address of this host for its own when it stays.
func (p *peers) look() {
	if p.present == nil {
		return
	}
	switch now := p.present(); {
	case now == "" || now == p.announced:
		p.candidate, p.looks = "", 0
	case now != p.candidate:
		p.candidate, p.looks = now, 1
	default:
		if p.looks++; p.looks >= settled {
			p.announced = now
		}
	}
}

func (p *peers) run(ctx context.Context) {
	tick := time.NewTicker(peersInterval)
	defer tick.Stop()
	for {
		p.look()
		if err := p.check(ctx); err != nil && ctx.Err() == nil {
			p.log.Error(err, "Cannot change the members of the etcd cluster", "component", "etcd")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *peers) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if p.member.Leader() == 0 {
		return nil // nothing can be changed without a majority
	}
	own := p.member.MemberID()
	leading := p.member.Leader() == own
	for _, m := range p.member.Cluster().Members() {
		switch {
		case m.ID == own && !slices.Equal(m.PeerURLs, []string{p.announced}):
			// The host's address changed, or the member was alone until now and had no address.
			if _, err := p.client.MemberUpdate(ctx, uint64(own), []string{p.announced}); err != nil {
				return fmt.Errorf("announce the peer URL %s: %w", p.announced, err)
			}
			p.log.Info("Announced this member's peer URL", "component", "etcd", "url", p.announced, "before", m.PeerURLs)
		case m.IsLearner && leading && m.Name != "":
			_, err := p.client.MemberPromote(ctx, uint64(m.ID))
			if errors.Is(err, rpctypes.ErrMemberLearnerNotReady) || errors.Is(err, rpctypes.ErrMemberNotLearner) || errors.Is(err, rpctypes.ErrUnhealthy) {
				continue
			}
			if err != nil {
				return fmt.Errorf("promote etcd member %s: %w", m.Name, err)
			}
			p.log.Info("A new etcd member votes", "component", "etcd", "member", m.Name, "id", m.ID.String())
		}
	}
	return nil
}
