// SPDX-License-Identifier: Apache-2.0

package loader

// The eBPF objects and their Go bindings. Needs clang-19, llvm-19 (strip), libbpf-dev and linux-libc-dev; run "make generate".
// BPF2GO_CFLAGS in generate.sh are the one set of compiler flags.

//go:generate sh generate.sh abi.c abi BPF -type addr -type drop_counter -type drop_reason -type drop_event -type service_key -type service -type slot_run -type slot_elem -type service_algorithm -type backend -type backend_load -type ct_key -type ct -type ct_state -type local_backend_key -type affinity_key -type affinity -type source_range_key -type frag_key -type frag -type sock_peer -type sock_rev_key -type sock_rev -type vip_bits -type lb_counter_index
//go:generate sh generate.sh sock.c sock Sock
//go:generate sh generate.sh uplink.c uplink Uplink
//go:generate sh generate.sh xdp.c xdp XDP
