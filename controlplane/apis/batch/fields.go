// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"strconv"

	v1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/fields"
)

func jobFields(j *v1.Job) fields.Set {
	return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
}
