// SPDX-License-Identifier: Apache-2.0

package limitranger

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/lru"
)

// keepFor is how long the API's answer for a namespace without cached LimitRanges is used again.
const keepFor = time.Second

// recentLookups remembers live answers, so that a burst of pods in a namespace without LimitRanges asks once.
type recentLookups struct{ cache *lru.Cache }

type lookup struct {
	until  time.Time
	ranges []*corev1.LimitRange
}

func newRecentLookups() *recentLookups { return &recentLookups{lru.New(1000)} }

func (c *recentLookups) get(namespace string, ask func() ([]*corev1.LimitRange, error)) ([]*corev1.LimitRange, error) {
	if v, ok := c.cache.Get(namespace); ok && time.Now().Before(v.(lookup).until) {
		return v.(lookup).ranges, nil
	}
	ranges, err := ask()
	if err != nil {
		return nil, err
	}
	c.cache.Add(namespace, lookup{time.Now().Add(keepFor), ranges})
	return ranges, nil
}
