// SPDX-License-Identifier: Apache-2.0

// Package pki makes and keeps the cluster's keys: the certificate authorities, the certificate of every control-plane component, the
// key that signs service-account tokens, and the kubeconfigs that carry them.
//
//	                 ca.key ──► apiserver.pem  kubelet-client.pem  *.kubeconfig
//	Open ─► files ─► front-proxy-ca.key ──► front-proxy-client.pem
//	                 etcd-ca.key ──► etcd-server.pem  etcd-peer.pem  etcd-client.pem     (only with Config.Etcd)
//	                 sa.key
//
// An identity is one PEM file that holds certificate and key together, so that one rename replaces both and a process killed at any
// moment leaves either the old pair or the new one. An authority is two files because its certificate is handed out: the key is
// written first and never replaced, the certificate can always be made again from it. Every file with a key has mode 0600.
//
// Open creates what is missing and replaces what is unfit (expired soon, wrong authority, other names); Run repeats that while the
// server lives, so certificates never run out and a changed node address reaches the serving certificate. Who serves with a file
// must reload it when it changes (k8s.io/apiserver/pkg/server/dynamiccertificates does).
//
// The package never talks to the API server and never removes an authority's key.
package pki
