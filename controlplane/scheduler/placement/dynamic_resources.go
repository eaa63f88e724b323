// SPDX-License-Identifier: Apache-2.0

package placement

// DeviceDecision is a placeholder
type DeviceDecision struct{}
