// SPDX-License-Identifier: Apache-2.0

package priority

import (
	"context"
	"fmt"

	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// EnsureSystemClasses makes the two classes that every cluster has. Present ones are left as they are.
func EnsureSystemClasses(ctx context.Context, client kubernetes.Interface) error {
	for _, c := range []*schedulingv1.PriorityClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: 2_000_001_000,
			Description: "For pods without which a node does not work; they must not be moved from it."},
		{ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: 2_000_000_000,
			Description: "For pods without which the cluster does not work; they may be moved to another node."},
	} {
		_, err := client.SchedulingV1().PriorityClasses().Create(ctx, c, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("priority class %s: %w", c.Name, err)
		}
	}
	return nil
}
