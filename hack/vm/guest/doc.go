// SPDX-License-Identifier: Apache-2.0

// Package guest is what runs as PID 1 inside the virtual machines of hack/vm: it makes of a bare kernel what a Linux host has.
//
//	Batch     runs the commands of the image and ends; for tests (hack/vm/init)
//	Stay      shares the file system of the machine outside and takes commands until it is ended; for `fairlead sandbox up --kernel`
package guest
