// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/fairlead/fairlead/dataplane/dns/control"
	"github.com/fairlead/fairlead/dataplane/dns/directory"
)

// CoreDNS's metrics plugin serves the default registry, with CoreDNS's own metrics under their names; these are ours beside them.
var (
	searchAnswers = promauto.NewCounter(prometheus.CounterOpts{Namespace: "fairlead", Subsystem: "dns", Name: "search_answers_total",
		Help: "Questions answered by walking the asking pod's search list on the server."})
	searchSaved = promauto.NewCounter(prometheus.CounterOpts{Namespace: "fairlead", Subsystem: "dns", Name: "search_questions_saved_total",
		Help: "Questions that resolvers would have sent in addition, had they walked their search lists themselves."})
	fastAnswers = promauto.NewCounter(prometheus.CounterOpts{Namespace: "fairlead", Subsystem: "dns", Name: "fast_answers_total",
		Help: "Questions answered without CoreDNS's chain of plugins; they count in coredns_dns_requests_total, too, where that is switched on."})
	reloads = promauto.NewCounterVec(prometheus.CounterOpts{Namespace: "fairlead", Subsystem: "dns", Name: "reloads_total",
		Help: "Loads of a changed Corefile by result: loaded, or failed and the former one kept."}, []string{"result"})
)

// counts hold a counter for each service that exists or was asked for while it did; so clients that make up names do not make it grow.
type counts struct{ byName sync.Map } // directory.Name -> *atomic.Int64

func (c *counts) add(n directory.Name) {
	v, ok := c.byName.Load(n)
	if !ok {
		v, _ = c.byName.LoadOrStore(n, new(atomic.Int64))
	}
	v.(*atomic.Int64).Add(1)
}

// top returns the n services most asked for.
func (c *counts) top(n int) []control.Count {
	all := []control.Count{}
	c.byName.Range(func(k, v any) bool {
		name := k.(directory.Name)
		all = append(all, control.Count{Namespace: name.Namespace, Name: name.Name, Questions: v.(*atomic.Int64).Load()})
		return true
	})
	slices.SortFunc(all, func(a, b control.Count) int {
		return cmp.Or(cmp.Compare(b.Questions, a.Questions), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all[:min(n, len(all))]
}
