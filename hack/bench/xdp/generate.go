// SPDX-License-Identifier: Apache-2.0

package main

// The programs that are measured; the same compiler flags as the datapath's own.

//go:generate env ROOT=../../.. sh ../../../dataplane/loader/generate.sh bench/xdp.c bench bench
//go:generate env ROOT=../../.. sh ../../../dataplane/loader/generate.sh bench/pod.c benchpod benchPod
