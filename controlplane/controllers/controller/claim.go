// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// Claim settles which objects an owner controls: orphans that its selector matches are adopted, own objects that it no longer matches are
// released, everything else is left alone.
type Claim[T metav1.Object] struct {
	Owner    metav1.Object // as the cache shows it
	Kind     schema.GroupVersionKind
	Selector labels.Selector
	// Fresh reads the owner from the API server. It is asked once and only when there is something to adopt: an owner that is
	// being deleted, or whose name was taken by another object, must not adopt.
	Fresh func(ctx context.Context) (metav1.Object, error)
	// Patch applies a strategic merge patch to obj.
	Patch func(ctx context.Context, obj T, patch []byte) error
	// Filter, when set, must hold for an orphan to be adopted.
	Filter func(obj T) bool
	// Finalizers are added to what is adopted and removed from what is released.
	Finalizers []string

	checked  bool
	checkErr error
}

// Run returns those of objs that the owner controls after adoption and release. With an error the list is still what is known to be controlled.
func (c *Claim[T]) Run(ctx context.Context, objs []T) ([]T, error) {
	var claimed []T
	var errs []error
	for _, obj := range objs {
		ref := metav1.GetControllerOfNoCopy(obj)
		matches := c.Selector.Matches(labels.Set(obj.GetLabels()))
		switch {
		case ref != nil && ref.UID != c.Owner.GetUID():
		case ref != nil && matches:
			claimed = append(claimed, obj)
		case ref != nil: // ours, no longer matching
			if c.Owner.GetDeletionTimestamp() == nil {
				if err := c.release(ctx, obj); err != nil {
					errs = append(errs, err)
				}
			}
		case !matches || obj.GetDeletionTimestamp() != nil || c.Owner.GetDeletionTimestamp() != nil || c.Filter != nil && !c.Filter(obj):
		default:
			if err := c.adopt(ctx, obj); err == nil {
				claimed = append(claimed, obj)
			} else if !apierrors.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
	}
	return claimed, utilerrors.NewAggregate(errs)
}

func (c *Claim[T]) adopt(ctx context.Context, obj T) error {
	if !c.checked {
		c.checked = true
		fresh, err := c.Fresh(ctx)
		switch {
		case err != nil:
			c.checkErr = err
		case fresh.GetUID() != c.Owner.GetUID():
			c.checkErr = fmt.Errorf("%s %s was replaced: its UID is %s, not %s", c.Kind.Kind, Key(c.Owner), fresh.GetUID(), c.Owner.GetUID())
		case fresh.GetDeletionTimestamp() != nil:
			c.checkErr = fmt.Errorf("%s %s is being deleted and adopts nothing", c.Kind.Kind, Key(c.Owner))
		}
	}
	if c.checkErr != nil {
		return fmt.Errorf("adopt %s: %w", Key(obj), c.checkErr)
	}
	m := map[string]any{"uid": obj.GetUID(), "ownerReferences": []metav1.OwnerReference{*metav1.NewControllerRef(c.Owner, c.Kind)}}
	if len(c.Finalizers) > 0 {
		m["finalizers"] = c.Finalizers
	}
	return c.patch(ctx, obj, m)
}

func (c *Claim[T]) release(ctx context.Context, obj T) error {
	err := c.patch(ctx, obj, OwnerRemoval(obj.GetUID(), c.Owner.GetUID(), c.Finalizers...))
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil // gone, or no longer ours: nothing to release
	}
	return err
}

func (c *Claim[T]) patch(ctx context.Context, obj T, metadata map[string]any) error {
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	return c.Patch(ctx, obj, body)
}

// OwnerRemoval is the metadata part of a strategic merge patch that takes owner and finalizers off the object with UID uid.
func OwnerRemoval(uid, owner types.UID, finalizers ...string) map[string]any {
	m := map[string]any{"uid": uid, "ownerReferences": []map[string]any{{"$patch": "delete", "uid": owner}}}
	if len(finalizers) > 0 {
		m["$deleteFromPrimitiveList/finalizers"] = finalizers
	}
	return m
}
