// SPDX-License-Identifier: Apache-2.0

// Package column has the pieces of which kinds compose their server-side table (kubectl get): names, ages, lists that are cut short.
package column

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// What a cell shows for a value that is not there.
const (
	None    = "<none>"
	Unset   = "<unset>"
	Unknown = "<unknown>"
)

// Standard is a table as most kinds have it: the name, cols, the age, and then those of cols that only -o wide shows.
func Standard[T resource.Object](cols ...resource.Column[T]) []resource.Column[T] {
	narrow := func(c resource.Column[T]) bool { return c.Priority == 0 }
	out := []resource.Column[T]{Name[T]()}
	for _, c := range cols {
		if narrow(c) {
			out = append(out, c)
		}
	}
	out = append(out, Age[T]())
	return append(out, slices.DeleteFunc(slices.Clone(cols), narrow)...)
}

// Name is the object's name.
func Name[T resource.Object]() resource.Column[T] {
	return resource.Column[T]{Name: "Name", Type: "string", Format: "name", Description: "Name of the object, unique in its namespace.",
		Value: func(obj T) any { return obj.GetName() }}
}

// Age is the time since creation.
func Age[T resource.Object]() resource.Column[T] {
	return Text("Age", "Time since the object was created.", func(obj T) string { return Since(obj.GetCreationTimestamp()) })
}

// NameAndDate is the table of kinds that show when they were made rather than how long ago: roles and limit ranges, by tradition.
func NameAndDate[T resource.Object]() []resource.Column[T] {
	return []resource.Column[T]{
		Name[T](),
		{Name: "Created At", Type: "date", Description: "Time at which the object was created.", Value: func(obj T) any {
			return obj.GetCreationTimestamp().UTC().Format(time.RFC3339)
		}},
	}
}

// Text is a column of words.
func Text[T resource.Object](name, description string, value func(T) string) resource.Column[T] {
	return resource.Column[T]{Name: name, Type: "string", Description: description, Value: func(obj T) any { return value(obj) }}
}

// Int is a column of whole numbers.
func Int[T resource.Object, N int | int32 | int64](name, description string, value func(T) N) resource.Column[T] {
	return resource.Column[T]{Name: name, Type: "integer", Description: description, Value: func(obj T) any { return int64(value(obj)) }}
}

// Bool is a column of true and false.
func Bool[T resource.Object](name, description string, value func(T) bool) resource.Column[T] {
	return resource.Column[T]{Name: name, Type: "boolean", Description: description, Value: func(obj T) any { return value(obj) }}
}

// Wide shows c only with -o wide.
func Wide[T resource.Object](c resource.Column[T]) resource.Column[T] {
	c.Priority = 1
	return c
}

// Containers are the wide columns of kinds that hold a pod template: names and images of its containers.
func Containers[T resource.Object](spec func(T) *corev1.PodSpec) []resource.Column[T] {
	list := func(of func(corev1.Container) string) func(T) string {
		return func(obj T) string {
			s := spec(obj)
			if s == nil {
				return ""
			}
			parts := make([]string, len(s.Containers))
			for i, c := range s.Containers {
				parts[i] = of(c)
			}
			return strings.Join(parts, ",")
		}
	}
	return []resource.Column[T]{
		Wide(Text("Containers", "Names of the containers in the template.", list(func(c corev1.Container) string { return c.Name }))),
		Wide(Text("Images", "Images of the containers in the template.", list(func(c corev1.Container) string { return c.Image }))),
	}
}

// Since is the time from t until now as people say it: 5m, 3d4h.
func Since(t metav1.Time) string {
	if t.IsZero() {
		return Unknown
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// Or is s, or instead when s is empty.
func Or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

// Pointed is *p, or instead when p is nil.
func Pointed[S ~string](p *S, instead string) string {
	if p == nil {
		return instead
	}
	return string(*p)
}

// FirstOf joins the first limit of list and says how many more there are. An empty list gives instead.
func FirstOf(list []string, limit int, separator, instead string) string {
	if len(list) == 0 {
		return instead
	}
	if len(list) <= limit {
		return strings.Join(list, separator)
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(list[:limit], separator), len(list)-limit)
}
