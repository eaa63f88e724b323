// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// guard keeps the member writable: it raises etcd's NOSPACE alarm while the file system is nearly full (so that a write fails with an error
// instead of in the middle of the write-ahead log), lowers it when space is back, and defragments when most of the database file is free.
type guard struct {
	log      klog.Logger
	member   *etcdserver.EtcdServer
	client   *clientv3.Client
	dir      string
	endpoint string
	minFree  uint64
	// raised is true while the alarm stands because of this guard.
	raised bool
}

const (
	guardInterval = time.Second
	// defragWaste is the free part of the database file, in bytes, above which it is rewritten when it is also more than half of the file.
	defragWaste = 256 << 20
	// defragEvery bounds how often that happens: it blocks writes for as long as the copy takes.
	defragEvery = time.Hour
)

func (g *guard) run(ctx context.Context) {
	tick := time.NewTicker(guardInterval)
	defer tick.Stop()
	var defragmented time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := g.checkSpace(ctx); err != nil && ctx.Err() == nil {
			g.log.Error(err, "Cannot check the store's space")
		}
		if time.Since(defragmented) > defragEvery {
			done, err := g.checkWaste(ctx)
			if err != nil && ctx.Err() == nil {
				g.log.Error(err, "Cannot defragment the store")
			}
			if done {
				defragmented = time.Now()
			}
		}
	}
}

// checkSpace compares the alarm with reality and moves it.
func (g *guard) checkSpace(ctx context.Context) error {
	free, err := freeBytes(g.dir)
	if err != nil {
		return err
	}
	alarmed := false
	for _, a := range g.member.Alarms() {
		alarmed = alarmed || a.Alarm == pb.AlarmType_NOSPACE && a.MemberID == uint64(g.member.MemberID())
	}
	switch {
	case free < g.minFree && !alarmed:
		g.log.Error(nil, "Disk is nearly full: the cluster's state is read-only until space is freed", "dir", g.dir, "freeBytes", free, "minFreeBytes", g.minFree)
		g.raised = true
		return g.alarm(ctx, pb.AlarmRequest_ACTIVATE)
	case alarmed && free >= g.minFree+g.minFree/4 && (g.raised || g.withinQuota(ctx)):
		g.log.Info("Space is back: the cluster's state is writable again", "dir", g.dir, "freeBytes", free)
		g.raised = false
		return g.alarm(ctx, pb.AlarmRequest_DEACTIVATE)
	}
	return nil
}

func (g *guard) alarm(ctx context.Context, action pb.AlarmRequest_AlarmAction) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := g.member.Alarm(ctx, &pb.AlarmRequest{Action: action, MemberID: uint64(g.member.MemberID()), Alarm: pb.AlarmType_NOSPACE})
	if err != nil {
		return fmt.Errorf("%s the store's space alarm: %w", action, err)
	}
	return nil
}

// withinQuota reports whether the database, after giving back its free pages, is small enough to take writes again.
func (g *guard) withinQuota(ctx context.Context) bool {
	quota := g.member.Cfg.QuotaBackendBytes
	if g.member.Backend().SizeInUse() > quota*9/10 {
		return false
	}
	if g.member.Backend().Size() < quota*9/10 {
		return true
	}
	_, err := g.client.Defragment(ctx, g.endpoint)
	return err == nil && g.member.Backend().Size() < quota
}

func (g *guard) checkWaste(ctx context.Context) (bool, error) {
	size, used := g.member.Backend().Size(), g.member.Backend().SizeInUse()
	if waste := size - used; waste < defragWaste || waste < size/2 {
		return false, nil
	}
	started := time.Now()
	if _, err := g.client.Defragment(ctx, g.endpoint); err != nil {
		return false, err
	}
	g.log.Info("Store defragmented", "component", "etcd", "before", size, "after", g.member.Backend().Size(), "took", time.Since(started).Round(time.Millisecond))
	return true, nil
}

// freeBytes returns what an unprivileged writer may still write below dir.
func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}
