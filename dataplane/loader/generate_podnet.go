// SPDX-License-Identifier: Apache-2.0

package loader

// The pod network's programs. The types that Go shares with them come with net.c, which includes all of their headers (prefix Net).

//go:generate sh generate.sh pod.c pod Pod
//go:generate sh generate.sh net.c net Net -type addr -type endpoint -type bandwidth_key -type bandwidth -type ipcache_key -type ipcache_entry -type uplink -type masq_key -type masq_entry
