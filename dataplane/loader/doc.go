// SPDX-License-Identifier: Apache-2.0

// Package loader is the only place that loads, attaches and pins eBPF objects.
//
//	bpf/*.c --bpf2go--> *_bpfel.{go,o} --Load--> programs and maps --Attach--> links
//	                                                    |                        |
//	                                     PinDir/maps-vN/<map>         PinDir/links/<name>, filters/<name>@<ifindex>-in before Linux 6.6
//
// Its input is a CollectionSpec (generated, embedded), constants for .rodata and map sizes; its output is loaded programs, maps that
// are shared by name through their pins, and pinned links. It never decides what goes into a map.
//
// Maps that C declares with LIBBPF_PIN_BY_NAME are created once per PinDir and reused by every later Load, of whichever collection: that is
// how the socket, XDP and tc programs and a restarted agent share state. LayoutVersion is part of the directory's name: a release that
// changes a key or value layout raises it, so that it never reads old maps by new types. What they hold, connections above all, is carried over: see migrate.go.
//
// Attaching is idempotent: a pinned link of the same name that still points at the same target gets its program replaced atomically; one whose
// target is gone or different is replaced. Nothing here survives only in the process: with the agent dead the datapath goes on.
package loader
