// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"
)

// Config is what Run needs.
type Config struct {
	// Tables are swept in turn, by name.
	Tables map[string]*Table
	// Interval between sweeps; zero: 10 s. Less, down to a second, if a table would come under pressure before.
	Interval time.Duration
	// Wake asks for a sweep now; may be nil.
	Wake <-chan struct{}
	// Before is called before each round of sweeps; may be nil.
	Before func()
	// Registerer gets the metrics; nil: none.
	Registerer prometheus.Registerer
}

// Run sweeps the tables until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	log := klog.FromContext(ctx).WithName("conntrack")
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"table"})
	}
	entries := gauge("fairlead_conntrack_entries", "Entries in a connection table, two per connection.")
	capacity := gauge("fairlead_conntrack_capacity", "Entries a connection table can hold.")
	unanswered := gauge("fairlead_conntrack_unanswered", "Entries of connections that nobody has answered.")
	removed := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "fairlead_conntrack_removed_total", Help: "Entries removed by sweeps."}, []string{"table"})
	took := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "fairlead_conntrack_sweep_seconds", Help: "Duration of sweeps.", Buckets: prometheus.ExponentialBuckets(1e-4, 4, 10),
	})
	if cfg.Registerer != nil {
		for _, c := range []prometheus.Collector{entries, capacity, unanswered, removed, took} {
			if cfg.Registerer.Register(c) == nil {
				defer cfg.Registerer.Unregister(c)
			}
		}
	}
	pressed, stayed, swept := map[string]bool{}, map[string]int{}, map[string]time.Time{}
	for {
		wait := cfg.Interval
		if cfg.Before != nil {
			cfg.Before()
		}
		for name, t := range cfg.Tables {
			r, err := t.Sweep(Now(), pressed[name])
			if err != nil {
				log.Error(err, "sweep", "table", name)
				continue
			}
			entries.WithLabelValues(name).Set(float64(r.Entries))
			capacity.WithLabelValues(name).Set(float64(r.Capacity))
			unanswered.WithLabelValues(name).Set(float64(r.New))
			removed.WithLabelValues(name).Add(float64(r.Removed))
			took.Observe(r.Took.Seconds())
			was := pressed[name]
			pressed[name] = float64(r.Entries) > PressureAt*float64(r.Capacity)
			if pressed[name] && !was {
				log.Info("connection table is nearly full; unanswered and closed connections are removed early", "table", name, "entries", r.Entries, "capacity", r.Capacity)
			}
			if last, ok := swept[name]; ok {
				wait = min(wait, untilPressure(r, stayed[name], time.Since(last), cfg.Interval))
			}
			stayed[name], swept[name] = r.Entries, time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-cfg.Wake:
		case <-time.After(wait):
		}
	}
}

// untilPressure says when the table must be swept again, if as many connections keep coming as came in the time since the last sweep, after which before entries were left:
// many short connections fill a table with closed ones long before a regular sweep. At least a second, at most interval.
func untilPressure(r Result, before int, since, interval time.Duration) time.Duration {
	room := PressureAt*float64(r.Capacity) - float64(r.Entries)
	came := float64(r.Entries + r.Removed - before)
	if room <= 0 {
		return min(interval, time.Second)
	}
	if came <= 0 || room/came >= float64(interval)/float64(since) {
		return interval
	}
	return max(min(interval, time.Second), time.Duration(room/came*float64(since)))
}
