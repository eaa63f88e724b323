// SPDX-License-Identifier: Apache-2.0

// Package conntrack keeps the datapath's connection tables within bounds.
//
//	ct_tcp, ct_any (written by bpf/lib/ct.h) --batched walk--> expired? pair expired too? --batched delete-->
//
// Programs create entries, two per connection, and note each packet's time in the entry of its direction; they never remove any. Sweep removes a connection when both of
// its directions have been silent for the lifetime of their state, and at once when it is a datagram flow whose backend is gone, so that the next
// datagram chooses anew. Under pressure (more than PressureAt full) connections that nobody ever answered get a tenth of their lifetime, which bounds what a
// SYN flood can hold; established connections are never removed early.
//
// It reads the backends' rows only to see whether they are still in use. It creates no entry and attaches nothing.
package conntrack
