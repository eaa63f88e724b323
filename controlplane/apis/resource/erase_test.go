// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestResourceKeepsEveryField fills every field of a Kind and sees that none is lost on the way to Resource.
func TestResourceKeepsEveryField(t *testing.T) {
	var k Kind[*corev1.Pod]
	fill(reflect.ValueOf(&k).Elem())
	r := reflect.ValueOf(k.Resource())
	for i := range r.NumField() {
		if r.Field(i).IsZero() {
			t.Errorf("Resource() loses %s", r.Type().Field(i).Name)
		}
	}
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32:
		v.SetInt(1)
	case reflect.Func:
		v.Set(reflect.MakeFunc(v.Type(), func([]reflect.Value) []reflect.Value { panic("not called") }))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	default:
		panic("unexpected " + v.Type().String())
	}
}
