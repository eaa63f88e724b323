// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"crypto/tls"
	"os"
	"sync"
	"time"
)

// certificateFiles is a key pair on disk, read again when the certificate's file changes.
type certificateFiles struct {
	cert, key string

	mu      sync.Mutex
	current *tls.Certificate
	changed time.Time
}

func (c *certificateFiles) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.cert)
	if err != nil {
		if c.current != nil {
			return c.current, nil
		}
		return nil, err
	}
	if c.current != nil && info.ModTime().Equal(c.changed) {
		return c.current, nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		if c.current != nil {
			return c.current, nil // half written: the next look finds it whole
		}
		return nil, err
	}
	c.current, c.changed = &pair, info.ModTime()
	return c.current, nil
}
