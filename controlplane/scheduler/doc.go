// SPDX-License-Identifier: Apache-2.0

// Package scheduler gives every pod a node. It runs on client-go informers against any Kubernetes API server.
//
//	informers --handlers.go--> cluster.State  what is there                 queue.Queue  who wants a node
//	                                   \                                   /
//	                                    cycle.go: one pod at a time, under one lock, in microseconds
//	                                   /         (placement.Evaluator finds the node or why there is none)
//	                     bind.go: volumes, claims, then pods/binding         status.go: condition, event, nominated node
//	                              (concurrent, without the lock)                        (concurrent, without the lock)
//
// A decision is first assumed in State, so the next pod sees it at once; a binding that fails is taken back and the pod is tried again.
// What Kubernetes defines keeps Kubernetes' names: plugins, configuration file, metrics, event reasons and texts.
package scheduler
