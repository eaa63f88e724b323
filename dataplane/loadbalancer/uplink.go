// SPDX-License-Identifier: Apache-2.0

package loadbalancer

// attachUplinks puts the packet programs on the devices where traffic from outside arrives.
func (b *balancer) attachUplinks(constants map[string]any) error {
	return nil
}
