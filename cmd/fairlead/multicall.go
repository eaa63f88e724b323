// SPDX-License-Identifier: Apache-2.0

package main

// runMultiCall runs the program that args ask for by name or first argument, and reports whether there was one.
func runMultiCall(args []string) bool { return false }
