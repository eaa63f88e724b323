// SPDX-License-Identifier: Apache-2.0

// Package remote runs commands on a machine that is reached by one TCP port only: SSH (RFC 4254), with keys made for the occasion on both sides.
//
//	NewKeys             the identities of both ends
//	Serve               takes commands
//	Dial, Client.Run    gives them
//
// A command is an argument list, not a line for a shell: nothing needs quoting.
package remote
