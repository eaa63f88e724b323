/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The pod network's per-node constants, set by the loader before a program is loaded. */
#pragma once

#include "base.h"

volatile const __u32 cfg_vxlan_ifindex; /* the node's VXLAN device; 0: the node has no overlay */
volatile const __u32 cfg_vni = 1; /* VXLAN network identifier */
volatile const __u16 cfg_masq_port_min = 61000; /* source ports for masquerading, host order, both included; */
volatile const __u16 cfg_masq_port_max = 65535; /* above the range the kernel's own sockets choose from */
