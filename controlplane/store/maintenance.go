// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// SnapshotStatus describes a snapshot file.
type SnapshotStatus struct {
	Hash     uint32 `json:"hash"`     // of the key space; two snapshots with one hash hold the same
	Revision int64  `json:"revision"` // of the last write
	Keys     int    `json:"keys"`     // including old revisions that were not compacted
	Bytes    int64  `json:"bytes"`
}

// SaveSnapshot writes all of the running store that cfg leads to into path (mode 0600). The file appears only when it is complete and its
// checksum holds.
func SaveSnapshot(ctx context.Context, cfg Config, path string) (SnapshotStatus, error) {
	c, err := clientConfig(cfg)
	if err != nil {
		return SnapshotStatus{}, err
	}
	if _, err := snapshot.NewV3(zap.NewNop()).Save(ctx, c, path); err != nil {
		return SnapshotStatus{}, fmt.Errorf("save a snapshot of %v to %s: %w", c.Endpoints, path, err)
	}
	return StatusOfSnapshot(path)
}

// StatusOfSnapshot reads a snapshot file.
func StatusOfSnapshot(path string) (SnapshotStatus, error) {
	s, err := snapshot.NewV3(zap.NewNop()).Status(path)
	if err != nil {
		return SnapshotStatus{}, fmt.Errorf("read snapshot %s: %w", path, err)
	}
	return SnapshotStatus{Hash: s.Hash, Revision: s.Revision, Keys: s.TotalKey, Bytes: s.TotalSize}, nil
}

// revisionBump is how far a restored store jumps ahead: clients that saw later revisions of the lost one must not take old for new.
const revisionBump = 1_000_000_000

// RestoreSnapshot makes cfg.DataDir from the snapshot file path. No member may run there; what DataDir holds of an earlier member must have been
// moved away. Watches of clients end, because all revisions before the restore count as compacted.
func RestoreSnapshot(cfg Config, path string) error {
	if len(cfg.Endpoints) > 0 {
		return errors.New("a snapshot is restored into a data directory, not into a running etcd cluster")
	}
	member := filepath.Join(cfg.DataDir, "member")
	if _, err := os.Stat(member); err == nil {
		return fmt.Errorf("%s exists: move it away first, restoring never overwrites a store", member)
	}
	m, err := cfg.embedded()
	if err != nil {
		return err
	}
	// The library wants a directory that does not exist; ours may hold sockets and a marker already.
	fresh := filepath.Join(cfg.DataDir, "restoring")
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	urls := make([]string, len(m.AdvertisePeerUrls))
	for i, u := range m.AdvertisePeerUrls {
		urls[i] = u.String()
	}
	err = snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: path, Name: m.Name, OutputDataDir: fresh, PeerURLs: urls, InitialCluster: m.InitialCluster,
		InitialClusterToken: m.InitialClusterToken, RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("restore snapshot %s: %w", path, err)
	}
	if err := os.Rename(filepath.Join(fresh, "member"), member); err != nil {
		return fmt.Errorf("restore snapshot %s: %w", path, err)
	}
	return os.RemoveAll(fresh)
}

// Member is one etcd server of the cluster.
type Member struct {
	ID         uint64   `json:"id"`
	Name       string   `json:"name"` // empty until it started for the first time
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"learner"`
}

// Members lists the cluster's members.
func Members(ctx context.Context, client *clientv3.Client) ([]Member, error) {
	r, err := client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list etcd members: %w", err)
	}
	return membersOf(r.Members), nil
}

// AddLearner makes room for a member that will listen for its peers at peerURL, as a learner: it counts for no majority until it has caught up and
// a leader promotes it. It returns the members there are then, which the new one is started with (Peer.Existing). Announcing a member again
// that has not started yet changes nothing. ErrBusy means that the cluster takes no new member just now.
func AddLearner(ctx context.Context, client *clientv3.Client, name, peerURL string) ([]Member, error) {
	members, err := Members(ctx, client)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		switch {
		case m.Name != "" && slices.ContainsFunc(m.PeerURLs, func(u string) bool { return !strings.HasPrefix(u, "https://") }):
			return nil, fmt.Errorf("%w: %s has not announced its address yet", ErrBusy, m.Name)
		case m.Name == "" && slices.Equal(m.PeerURLs, []string{peerURL}):
			return members, nil
		case m.Name == name || slices.Contains(m.PeerURLs, peerURL):
			return nil, fmt.Errorf("%w: %s at %v has id %x; if its data is lost, run `fairlead etcd member remove %x` first",
				ErrMemberExists, m.Name, m.PeerURLs, m.ID, m.ID)
		}
	}
	r, err := client.MemberAddAsLearner(ctx, []string{peerURL})
	switch {
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return nil, fmt.Errorf("%w: another one is joining (if it never will, remove it: `fairlead etcd member list` shows learners)", ErrBusy)
	case errors.Is(err, rpctypes.ErrUnhealthy), errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	case err != nil:
		return nil, fmt.Errorf("add etcd member %s: %w", peerURL, err)
	}
	return membersOf(r.Members), nil
}

// ErrBusy is the answer of a cluster whose members are just changing, or not all connected for five seconds; asking again later may succeed.
var ErrBusy = errors.New("the etcd cluster takes no new member at the moment")

// ErrMemberExists is the answer when a started member has the name or the peer URL of the new one.
var ErrMemberExists = errors.New("there is such an etcd member already")

// AddMember makes room for a voting member that will listen for its peers at peerURL and returns the members there are then.
func AddMember(ctx context.Context, client *clientv3.Client, peerURL string) ([]Member, error) {
	r, err := client.MemberAdd(ctx, []string{peerURL})
	if err != nil {
		return nil, fmt.Errorf("add etcd member %s: %w", peerURL, err)
	}
	return membersOf(r.Members), nil
}

// RemoveMember takes a member out of the cluster. The cluster refuses when too few healthy members would remain.
func RemoveMember(ctx context.Context, client *clientv3.Client, id uint64) ([]Member, error) {
	r, err := client.MemberRemove(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("remove etcd member %x: %w", id, err)
	}
	return membersOf(r.Members), nil
}

func membersOf(in []*pb.Member) []Member {
	out := make([]Member, len(in))
	for i, m := range in {
		out[i] = Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner}
	}
	return out
}

// clientConfig is how to reach the store that c describes.
func clientConfig(c Config) (clientv3.Config, error) {
	out := clientv3.Config{Endpoints: c.Endpoints, DialTimeout: dialTimeout, Logger: zap.NewNop()}
	if len(c.Endpoints) == 0 {
		out.Endpoints = []string{socketURL(c.socket())}
		return out, nil
	}
	if c.CAFile == "" && c.CertFile == "" {
		return out, nil
	}
	tls, err := transport.TLSInfo{CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.CAFile}.ClientConfig()
	if err != nil {
		return out, fmt.Errorf("load the etcd client certificate: %w", err)
	}
	out.TLS = tls
	return out, nil
}
