// SPDX-License-Identifier: Apache-2.0

// Command init is PID 1 of the virtual machines in which tests run: it runs every command of the image and powers off.
package main

import "github.com/fairlead/fairlead/hack/vm/guest"

func main() { guest.Batch() }
