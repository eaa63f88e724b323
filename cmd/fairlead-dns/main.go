// SPDX-License-Identifier: Apache-2.0

// Command fairlead-dns is a node's DNS server. fairlead can be it too, but takes more memory: when this executable lies beside fairlead, the node uses it.
package main

import (
	"os"

	"github.com/fairlead/fairlead/dataplane/dns/nameserver"
)

func main() { os.Exit(nameserver.Main()) }
