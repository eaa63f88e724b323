/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What every program includes: kernel UAPI types, helpers, byte order, and the few compiler hints used here.
 * No vmlinux.h: the UAPI headers of linux-libc-dev and libbpf suffice for all attach points used. */
#pragma once

/* linux/icmp.h takes no more than this from linux/if.h, which would pull in the C library. */
#ifndef _LINUX_IF_H
#define _LINUX_IF_H
#define IFNAMSIZ 16
#endif

#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define inline_fn static __always_inline
#ifndef NULL
#define NULL ((void *)0)
#endif
#define memcpy __builtin_memcpy
#define memset __builtin_memset

/* READ_ONCE and WRITE_ONCE for values another CPU writes at the same time. */
#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))

/* tcx return codes; older UAPI headers do not have them. TCX_NEXT runs the next program of the hook. */
#define TCX_NEXT (-1)
#define TCX_PASS 0
#define TCX_DROP 2
#define TCX_REDIRECT 7

#define AF_INET 2
#define AF_INET6 10

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define ETH_P_ARP 0x0806
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88A8
