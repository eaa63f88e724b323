// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"errors"

	"github.com/fairlead/fairlead/dataplane/endpoint"
	"github.com/fairlead/fairlead/dataplane/route"
)

// Uninstall removes what Run leaves in the network namespace: pods' interfaces, routes, the overlay device, the node's pod network addresses. Pods lose their network. Pins are the
// loader's to remove, the CNI plugin and its configuration cni/install's; forwarding stays enabled, since others may need it by now. Call it with no agent running.
func Uninstall() error {
	return errors.Join(endpoint.Uninstall(), route.Uninstall())
}
