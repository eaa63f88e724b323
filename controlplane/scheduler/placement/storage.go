// SPDX-License-Identifier: Apache-2.0

package placement

func (v *View) storageChanged() bool { return false }
