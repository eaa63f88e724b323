// SPDX-License-Identifier: Apache-2.0

// Package servicealloc gives Services what must be theirs alone: cluster addresses of each IP family, node ports, the health-check node port.
//
//	Service create/update/delete --(store hooks: Attach)--> families.go   which families, which policy
//	                                                        addresses.go  one IPAddress object per address; creating it is the claim
//	                                                        ports.go      a bitmap of taken ports in the store, changed with optimistic locking
//	                                                        repair.go     compares claims with Services, regularly
//
// A claim is made before the Service is written and taken back when writing fails, so a crash can leak a claim, never hand one out twice;
// repair returns leaked claims after a delay that no living request exceeds. Several API servers work side by side: the store decides who wins.
// What the client asks for is honoured or refused, never replaced.
package servicealloc
