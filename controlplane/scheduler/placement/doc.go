// SPDX-License-Identifier: Apache-2.0

// Package placement answers where a pod should go.
//
// Pods that ask for the same thing (replicas of one controller, in practice) form a Class, and each Class has a View: for every node the first
// reason against it, or its score. A View is brought up to date by the cluster's change log, so a pod costs what changed since the last pod of its
// class, plus one pass over flat arrays:
//
//	cluster.State --change log--> View.sync: filters and scores of the nodes that changed      (per node)
//	                              aggregates: counts per topology domain, by difference        (per changed node)
//	              Evaluator.Place: gates (which domains are allowed) and soft scores           (per domain)
//	                               the best node                                               (one pass over the arrays)
//
// Everything a rule needs to know beyond one node is a sum over a topology domain: topology spread and inter-pod affinity become gates, a list of
// allowed domains. Each plugin has Kubernetes' name and meaning and stands in a file of its own. Preemption asks the same View what a node would say
// without some of its pods.
//
// The package knows no API server and starts no goroutine; its caller holds the lock around cluster.State.
package placement
