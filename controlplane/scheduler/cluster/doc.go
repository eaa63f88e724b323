// SPDX-License-Identifier: Apache-2.0

// Package cluster is the scheduler's picture of the cluster, kept in step with every event instead of being copied for every pod.
//
// Nodes live in an array and are named by their index everywhere; resources are int64 vectors; label sets, selectors and topology values are
// interned. Three kinds of counts are kept per node and answer every question that reaches beyond one node:
//
//	LabelSet  how many pods of one namespace and one set of labels a node holds
//	Counter   how many pods that a selector matches a node holds (topology spread, affinity of the incoming pod)
//	Holding   how many pods a node holds that carry one affinity term (affinity and anti-affinity of the pods that are there)
//
// Every change of a node, its pods or its counts appends the node's index to a change log. A reader (package placement) remembers how far it has
// read and looks only at the nodes named since. State is not safe for concurrent use: the scheduler holds one lock around it.
//
// It never talks to the API server and never decides anything.
package cluster
