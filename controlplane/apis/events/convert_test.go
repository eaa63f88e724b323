// SPDX-License-Identifier: Apache-2.0

package events

import (
	"math/rand"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/equality"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestNoFieldIsLostThereAndBack(t *testing.T) {
	f := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(1), serializer.NewCodecFactory(scheme.Scheme)).NilChance(0.2)
	for range 200 {
		want := &v1.Event{}
		f.Fill(want)
		want.TypeMeta = metav1.TypeMeta{}
		stored, err := toStored(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := fromStored(stored)
		if err != nil {
			t.Fatal(err)
		}
		if !equality.Semantic.DeepEqual(got, want) {
			t.Fatalf("(-before +after):\n%s", cmp.Diff(want, got))
		}
	}
}
