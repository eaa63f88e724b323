// SPDX-License-Identifier: Apache-2.0

package node

import (
	v1 "k8s.io/api/node/v1"

	"github.com/fairlead/fairlead/controlplane/apis/podspec"
)

func defaultRuntimeClass(c *v1.RuntimeClass) {
	if c.Overhead != nil {
		podspec.RoundUp(c.Overhead.PodFixed)
	}
}
