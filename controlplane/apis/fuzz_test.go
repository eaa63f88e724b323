// SPDX-License-Identifier: Apache-2.0

package apis

import (
	"encoding/json"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// FuzzObject sends whatever decodes as some kind through everything that a request goes through here.
func FuzzObject(f *testing.F) {
	kinds := All()
	for i, r := range kinds {
		if r.SharesStorageWith != nil {
			continue
		}
		t := &testing.T{}
		text, err := json.Marshal(readRules(t, r).Valid)
		if err != nil || t.Failed() {
			f.Fatalf("seed of %s: %v", r.Kind, err)
		}
		f.Add(uint(i), text)
	}
	f.Fuzz(func(t *testing.T, kind uint, text []byte) {
		r := kinds[kind%uint(len(kinds))]
		obj := r.New()
		if json.Unmarshal(text, obj) != nil {
			return
		}
		if r.Default != nil {
			r.Default(obj)
		}
		old := obj.DeepCopyObject().(resource.Object)
		ctx := t.Context()
		var errs field.ErrorList
		if r.PrepareCreate != nil {
			r.PrepareCreate(ctx, obj)
		}
		if r.PrepareUpdate != nil {
			r.PrepareUpdate(ctx, obj, old)
		}
		if r.Validate != nil {
			errs = append(errs, r.Validate(ctx, obj)...)
		}
		if r.ValidateUpdate != nil {
			errs = append(errs, r.ValidateUpdate(ctx, obj, old)...)
		}
		if r.ValidateStatus != nil {
			errs = append(errs, r.ValidateStatus(ctx, obj, old)...)
		}
		for _, e := range errs {
			_ = e.Error() // messages are made of the bad values
		}
		for _, c := range r.Columns {
			c.Value(obj)
		}
		if r.Fields != nil {
			r.Fields(obj)
		}
		if r.ToStored != nil {
			stored, err := r.ToStored(obj)
			if err != nil {
				return
			}
			if _, err := r.FromStored(stored); err != nil {
				t.Errorf("converts to storage but not back: %v", err)
			}
		}
	})
}
