// SPDX-License-Identifier: Apache-2.0

package servicealloc

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
)

// portsKey is where the RangeAllocation lies below the store's prefix, as in Kubernetes.
const portsKey = "/ranges/servicenodeports"

// StoredPorts keeps the ports in the store that options lead to. Close ends its connection.
func StoredPorts(options generic.RESTOptionsGetter) (ports Ranges, closeStore func(), err error) {
	gr := corev1.Resource("rangeallocations")
	o, err := options.GetRESTOptions(gr, &corev1.RangeAllocation{})
	if err != nil {
		return nil, nil, fmt.Errorf("storage of node ports: %w", err)
	}
	s, destroy, err := factory.Create(*o.StorageConfig, func() runtime.Object { return &corev1.RangeAllocation{} }, nil, "/ranges")
	if err != nil {
		return nil, nil, fmt.Errorf("storage of node ports: %w", err)
	}
	return &stored{s}, destroy, nil
}

type stored struct{ storage storage.Interface }

func (s *stored) Get(ctx context.Context) (*corev1.RangeAllocation, error) {
	ra := &corev1.RangeAllocation{}
	err := s.storage.Get(ctx, portsKey, storage.GetOptions{IgnoreNotFound: true}, ra)
	return ra, storeerr.InterpretGetError(err, corev1.Resource("rangeallocations"), "servicenodeports")
}

func (s *stored) Update(ctx context.Context, change func(*corev1.RangeAllocation) error) error {
	err := s.storage.GuaranteedUpdate(ctx, portsKey, &corev1.RangeAllocation{}, true, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			ra := obj.(*corev1.RangeAllocation)
			return ra, change(ra)
		}), nil)
	return storeerr.InterpretUpdateError(err, corev1.Resource("rangeallocations"), "servicenodeports")
}
