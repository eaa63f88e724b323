// SPDX-License-Identifier: Apache-2.0

package evaluator

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
)

type lister = cache.GenericLister

type noListerError struct{ gvr schema.GroupVersionResource }

func (e *noListerError) Error() string {
	return fmt.Sprintf("usage of %s in a namespace cannot be added up: the evaluators were made without listers", e.gvr.GroupResource())
}
