// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fairlead/fairlead/dataplane/dns"
	"github.com/fairlead/fairlead/dataplane/dns/control"
	"github.com/fairlead/fairlead/dataplane/dns/keeper"
	"github.com/fairlead/fairlead/dataplane/dns/link"
	"github.com/fairlead/fairlead/dataplane/route"
	"github.com/fairlead/fairlead/dataplane/tables"
)

// AnnotationDNS is on the Node, with the value "down", while its DNS server does not answer; the cluster's DNS Service then has no ready endpoint there
// (controlplane/controllers/clusterdns).
const AnnotationDNS = "fairlead.io/dns"

// keepDNS keeps the node's DNS server and tells the cluster when it is away.
func (cfg Config) keepDNS(ctx context.Context, t *tables.Tables, corefiles <-chan string) error {
	settings := cfg.DNS
	settings.Listen, settings.Control = cfg.NodeIPs, filepath.Join(cfg.RunDir, control.SocketName)
	settings.Metrics = ":" + strconv.Itoa(dns.MetricsPort)
	if settings.Port == 0 {
		settings.Port = dns.Port
	}
	if cfg.PodNetwork { // else whoever connects the pods decides about their packets
		settings.Service = cfg.ofNodesFamilies(cfg.ClusterDNS)
		if err := route.Accept(settings.Service); err != nil {
			return err
		}
	}
	health := make(chan bool, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { cfg.publishDNS(ctx, health); return nil })
	g.Go(func() error {
		return keeper.Run(ctx, keeper.Config{
			Tables: t, Settings: settings, Corefiles: corefiles, RunDir: cfg.RunDir, LogFile: filepath.Join(cfg.DataDir, "dns.log"),
			Health: func(answers bool, service []netip.Addr) {
				setAnswers(t, settings, service)
				select {
				case <-health: // not published yet, and not true any more
				default:
				}
				health <- answers
			},
		})
	})
	return g.Wait()
}

// ofNodesFamilies returns those of addrs in whose family the node has an address.
func (cfg Config) ofNodesFamilies(addrs []netip.Addr) (out []netip.Addr) {
	for _, a := range addrs {
		if slices.ContainsFunc(cfg.NodeIPs, func(node netip.Addr) bool { return node.Is4() == a.Is4() }) {
			out = append(out, a)
		}
	}
	return out
}

// setAnswers tells the load balancer at which of the cluster DNS Service's addresses the server answers.
func setAnswers(t *tables.Tables, s link.Settings, service []netip.Addr) {
	var servers []netip.AddrPort
	for _, a := range s.Listen {
		servers = append(servers, netip.AddrPortFrom(a, uint16(s.Port)))
	}
	w := t.DB.WriteTxn(t.Answers)
	defer w.Commit()
	for _, a := range s.Service {
		row := &tables.Answer{At: netip.AddrPortFrom(a, dns.ServicePort), Servers: servers}
		if slices.Contains(service, a) {
			_, _, _ = t.Answers.Insert(w, row) // w has the table
		} else {
			_, _, _ = t.Answers.Delete(w, row)
		}
	}
}

// publishDNS writes the annotation until ctx ends. The latest state counts; while the API server is away it is tried again.
func (cfg Config) publishDNS(ctx context.Context, health <-chan bool) {
	const patience = time.Second
	var retry <-chan time.Time
	var answers bool
	for {
		select {
		case <-ctx.Done():
			return
		case answers = <-health:
		case <-retry:
		}
		retry = nil
		value := any("down")
		if answers {
			value = nil
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{AnnotationDNS: value}}})
		if err == nil {
			_, err = cfg.Client.CoreV1().Nodes().Patch(ctx, cfg.NodeName, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "fairlead-dns"})
		}
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).V(2).Info("The state of the DNS server is not published; trying again", "answers", answers, "err", err)
			retry = time.After(patience)
		}
	}
}
