// SPDX-License-Identifier: Apache-2.0

// Package volumes makes a pod's volumes on the node, keeps their content current, and takes them away again.
//
//	<root>/pods/<uid>/
//	├── volumes/kubernetes.io~<plugin>/<volume>     what SetUp makes
//	├── volume-subpaths/<volume>/<container>/<n>    bind mounts of subPaths, made by Mounts
//	├── containers/<container>/                     termination message files
//	└── etc-hosts
//
// SetUp and TearDown may be called again at any time and after a crash at any point: they look at what is there. Content from the
// API (config maps, secrets, downward API, tokens) is replaced as a whole by one rename. A plugin is a type with SetUp; CSI will be one more.
package volumes
