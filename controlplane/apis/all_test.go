// SPDX-License-Identifier: Apache-2.0

package apis

import (
	"math/rand"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/randfill"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// eachKind runs f once for every declaration, named resource.version.group.
func eachKind(t *testing.T, f func(t *testing.T, r resource.Resource)) {
	t.Helper()
	for _, r := range All() {
		t.Run(r.GVR.Resource+"."+r.GVR.Version+"."+r.GVR.Group, func(t *testing.T) { f(t, r) })
	}
}

// filler fills objects with random values of the right shape: quantities that parse, times in whole seconds.
func filler(seed int64) *randfill.Filler {
	codecs := serializer.NewCodecFactory(scheme.Scheme)
	return fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(seed), codecs).NumElements(1, 3).MaxDepth(12)
}

func TestNamesAreUniqueAndTypesAreRegistered(t *testing.T) {
	resources := map[schema.GroupVersionResource]bool{}
	short := map[string]schema.GroupResource{}
	eachKind(t, func(t *testing.T, r resource.Resource) {
		if resources[r.GVR] {
			t.Error("declared twice")
		}
		resources[r.GVR] = true
		for _, s := range r.ShortNames {
			if other, ok := short[s]; ok && other != r.GVR.GroupResource() && s != "ev" {
				t.Errorf("short name %s is taken by %s", s, other)
			}
			short[s] = r.GVR.GroupResource()
		}
		want := r.GVR.GroupVersion().WithKind(r.Kind)
		kinds, _, err := scheme.Scheme.ObjectKinds(r.New())
		if err != nil || kinds[0] != want {
			t.Errorf("New returns %v (%v), want %v", kinds, err, want)
		}
		want.Kind += "List"
		kinds, _, err = scheme.Scheme.ObjectKinds(r.NewList())
		if err != nil || kinds[0] != want {
			t.Errorf("NewList returns %v (%v), want %v", kinds, err, want)
		}
		if !meta.IsListType(r.NewList()) {
			t.Error("NewList returns no list")
		}
	})
}

func TestSharedStorageIsDeclaredFirstAndConvertsBothWays(t *testing.T) {
	seen := map[schema.GroupVersionResource]bool{}
	eachKind(t, func(t *testing.T, r resource.Resource) {
		seen[r.GVR] = true
		if r.SharesStorageWith == nil {
			return
		}
		if !seen[*r.SharesStorageWith] {
			t.Errorf("%v is not declared before", *r.SharesStorageWith)
		}
		if r.ToStored == nil || r.FromStored == nil {
			t.Error("cannot be converted")
		}
	})
}

func TestDefaultsAreIdempotent(t *testing.T) {
	eachKind(t, func(t *testing.T, r resource.Resource) {
		if r.Default == nil {
			return
		}
		f := filler(1)
		for i := range 200 {
			obj := r.New()
			if i > 0 {
				f.Fill(obj)
			}
			r.Default(obj)
			again := obj.DeepCopyObject().(resource.Object)
			r.Default(again)
			if !equality.Semantic.DeepEqual(obj, again) {
				t.Fatalf("second run changed the object:\n%s", cmp.Diff(obj, again))
			}
		}
	})
}

func TestRandomObjectsSurviveJSONAndProtobuf(t *testing.T) {
	codecs := serializer.NewCodecFactory(scheme.Scheme)
	for _, mediaType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf, runtime.ContentTypeCBOR} {
		info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaType)
		if !ok {
			continue
		}
		t.Run(mediaType, func(t *testing.T) {
			eachKind(t, func(t *testing.T, r resource.Resource) {
				f := filler(2)
				for range 20 {
					obj := r.New()
					f.Fill(obj)
					if r.Default != nil {
						r.Default(obj)
					}
					obj.GetObjectKind().SetGroupVersionKind(r.GVR.GroupVersion().WithKind(r.Kind))
					bytes, err := runtime.Encode(info.Serializer, obj)
					if err != nil {
						t.Fatal(err)
					}
					got, _, err := info.Serializer.Decode(bytes, nil, r.New())
					if err != nil {
						t.Fatal(err)
					}
					if r.Default != nil {
						r.Default(got.(resource.Object))
					}
					got.GetObjectKind().SetGroupVersionKind(r.GVR.GroupVersion().WithKind(r.Kind))
					if !equality.Semantic.DeepEqual(obj, got) {
						t.Fatalf("changed on the way (-before +after):\n%s", cmp.Diff(obj, got))
					}
				}
			})
		})
	}
}

// Whatever a client sends, a rule answers with errors: it never panics, and tables show any object.
func TestNothingPanicsOnRandomObjects(t *testing.T) {
	ctx := t.Context()
	eachKind(t, func(t *testing.T, r resource.Resource) {
		f := filler(3)
		for i := range 100 {
			obj, old := r.New(), r.New()
			if i > 0 {
				f.Fill(obj)
				f.Fill(old)
			}
			for _, o := range []resource.Object{obj, old} {
				o.SetDeletionTimestamp(nil)
				if r.Default != nil && i%2 == 0 {
					r.Default(o)
				}
			}
			if r.Fields != nil {
				r.Fields(obj)
			}
			for _, c := range r.Columns {
				c.Value(obj)
			}
			if r.PrepareCreate != nil {
				r.PrepareCreate(ctx, obj.DeepCopyObject().(resource.Object))
			}
			if r.PrepareUpdate != nil {
				r.PrepareUpdate(ctx, obj.DeepCopyObject().(resource.Object), old)
			}
			if r.PrepareStatus != nil {
				r.PrepareStatus(ctx, obj.DeepCopyObject().(resource.Object), old)
			}
			if r.Validate != nil {
				r.Validate(ctx, obj)
			}
			if r.ValidateUpdate != nil {
				r.ValidateUpdate(ctx, obj, old)
			}
			if r.ValidateStatus != nil {
				r.ValidateStatus(ctx, obj, old)
			}
			if r.Warnings != nil {
				r.Warnings(ctx, obj, nil)
				r.Warnings(ctx, obj, old)
			}
			if r.GracePeriod != nil {
				r.GracePeriod(obj, nil)
			}
			if r.Scale != nil {
				r.Scale.Replicas(obj)
				r.Scale.StatusReplicas(obj)
				if _, err := r.Scale.Selector(obj); err != nil {
					t.Error(err)
				}
				r.Scale.SetReplicas(obj, 3)
				if got := r.Scale.Replicas(obj); got == nil || *got != 3 {
					t.Errorf("scaled to 3, reads %v", got)
				}
			}
		}
	})
}

// Two equal objects are a permitted update of each other as far as immutable fields go.
func TestAnUpdateThatChangesNothingIsAllowed(t *testing.T) {
	ctx := t.Context()
	eachKind(t, func(t *testing.T, r resource.Resource) {
		if r.ValidateUpdate == nil {
			return
		}
		f := filler(4)
		for range 50 {
			obj := r.New()
			f.Fill(obj)
			if r.Default != nil {
				r.Default(obj)
			}
			obj.SetDeletionTimestamp((*metav1.Time)(nil))
			if errs := r.ValidateUpdate(ctx, obj, obj.DeepCopyObject().(resource.Object)); len(errs) > 0 {
				t.Fatalf("refused: %v", errs.ToAggregate())
			}
		}
	})
}
