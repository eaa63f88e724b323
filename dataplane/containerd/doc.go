// SPDX-License-Identifier: Apache-2.0

// Package containerd is the container runtime inside the one binary: containerd's daemon and its runc shim as further
// entry points of the executable, the configuration they run with, and the supervision that keeps the daemon alive.
//
//	agent ── Run ──▶ config.toml, bin/ links ──▶ starts or adopts the daemon (own session, own cgroup)
//	                                                │  socket  <run>/containerd.sock   (CRI and containerd's own API)
//	                                                └─ shim per pod ── runc ── containers
//
// The daemon and the shims outlive the agent: a new agent adopts what it finds by pid file and socket. Each node of a
// machine has its own root, state and sockets, so several can share one kernel.
//
// Input: Config. Output: a CRI endpoint and the images that were imported. The package knows nothing of Kubernetes' API.
package containerd
