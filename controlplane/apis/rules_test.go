// SPDX-License-Identifier: Apache-2.0

package apis

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// A rules file, testdata/<resource>.<version>[.<group>].yaml, holds an object that every rule accepts and the cases that bend it.
type rulesFile struct {
	Valid  map[string]any `json:"valid"`
	Create []ruleCase     `json:"create"`
	Update []ruleCase     `json:"update"`
	Status []ruleCase     `json:"status"`
}

// ruleCase bends the valid object: set writes values at paths (<gone> removes), old does so on the object before an update. Want are the errors,
// each "path: Type" or the beginning of the whole message; none means accepted.
type ruleCase struct {
	Name string         `json:"name"`
	Old  map[string]any `json:"old"`
	Set  map[string]any `json:"set"`
	Want []string       `json:"want"`
}

// nothingToValidate are kinds that have no rules beyond those of metadata.
var nothingToValidate = map[string]bool{"serviceaccounts": true}

func TestRules(t *testing.T) {
	ctx := t.Context()
	eachKind(t, func(t *testing.T, r resource.Resource) {
		if r.SharesStorageWith != nil {
			return // the other kind's rules apply
		}
		if r.Validate == nil && !nothingToValidate[r.GVR.Resource] {
			t.Error("has no rules")
		}
		f := readRules(t, r)
		make := func(t *testing.T, changes map[string]any) resource.Object {
			t.Helper()
			return object(t, r, f.Valid, changes)
		}
		t.Run("the valid object is accepted", func(t *testing.T) {
			obj := make(t, nil)
			if r.PrepareCreate != nil {
				r.PrepareCreate(ctx, obj)
			}
			check(t, nil, validate(t, r, obj))
			if r.ValidateName != nil {
				if msgs := r.ValidateName(obj.GetName(), false); len(msgs) > 0 {
					t.Errorf("name %s: %v", obj.GetName(), msgs)
				}
			}
			if r.ValidateUpdate != nil {
				obj.SetResourceVersion("1")
				check(t, nil, r.ValidateUpdate(ctx, obj, obj.DeepCopyObject().(resource.Object)))
			}
			if r.ValidateStatus != nil {
				check(t, nil, r.ValidateStatus(ctx, obj, obj.DeepCopyObject().(resource.Object)))
			}
		})
		for _, c := range f.Create {
			t.Run("create/"+c.Name, func(t *testing.T) {
				obj := make(t, c.Set)
				if r.PrepareCreate != nil {
					r.PrepareCreate(ctx, obj)
				}
				check(t, c.Want, validate(t, r, obj))
			})
		}
		for _, c := range f.Update {
			t.Run("update/"+c.Name, func(t *testing.T) {
				old := make(t, c.Old)
				changes := maps.Clone(c.Old)
				if changes == nil {
					changes = map[string]any{}
				}
				maps.Copy(changes, c.Set)
				obj := make(t, changes)
				obj.SetResourceVersion("1")
				old.SetResourceVersion("1")
				errs := validate(t, r, obj)
				if r.ValidateUpdate != nil {
					errs = append(errs, r.ValidateUpdate(ctx, obj, old)...)
				}
				check(t, c.Want, errs)
			})
		}
		for _, c := range f.Status {
			t.Run("status/"+c.Name, func(t *testing.T) {
				old := make(t, c.Old)
				changes := maps.Clone(c.Old)
				if changes == nil {
					changes = map[string]any{}
				}
				maps.Copy(changes, c.Set)
				obj := make(t, changes)
				if r.PrepareStatus != nil {
					r.PrepareStatus(ctx, obj, old)
				}
				check(t, c.Want, r.ValidateStatus(ctx, obj, old))
			})
		}
	})
}

func readRules(t *testing.T, r resource.Resource) rulesFile {
	t.Helper()
	name := strings.TrimSuffix(r.GVR.Resource+"."+r.GVR.Version+"."+r.GVR.Group, ".") + ".yaml"
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var f rulesFile
	if err := yaml.UnmarshalStrict(text, &f); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return f
}

// object is the valid object with changes, decoded strictly and defaulted as a request would be.
func object(t *testing.T, r resource.Resource, valid, changes map[string]any) resource.Object {
	t.Helper()
	text, err := json.Marshal(valid)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(changes)) {
		if tree, err = set(tree, steps(t, path), changes[path]); err != nil {
			t.Fatalf("set %s: %v", path, err)
		}
	}
	if text, err = json.Marshal(tree); err != nil {
		t.Fatal(err)
	}
	obj := r.New()
	strict, err := kjson.UnmarshalStrict(text, obj)
	if err != nil || len(strict) > 0 {
		t.Fatalf("decode %s: %v %v", text, err, strict)
	}
	if r.Default != nil {
		r.Default(obj)
	}
	return obj
}

func validate(t *testing.T, r resource.Resource, obj resource.Object) field.ErrorList {
	if r.Validate == nil {
		return nil
	}
	return r.Validate(t.Context(), obj)
}

// check compares errors with those wanted, in any order.
func check(t *testing.T, want []string, errs field.ErrorList) {
	t.Helper()
	left := slices.Clone(want)
	for _, e := range errs {
		if e.Field == "" || e.Field == "<nil>" {
			t.Errorf("no field: %v", e)
		}
		short := e.Field + ": " + e.Type.String()
		i := slices.IndexFunc(left, func(w string) bool {
			return w == short || strings.HasPrefix(e.Error(), w) && strings.Contains(w, ": ") && len(w) > len(short)
		})
		if i < 0 {
			t.Errorf("unexpected: %v", e)
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
	for _, w := range left {
		t.Errorf("missing: %s", w)
	}
}

// steps splits spec.ports[0].name and metadata.labels[a/b] into keys and indexes.
func steps(t *testing.T, path string) []any {
	t.Helper()
	out, err := splitPath(path)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func splitPath(path string) (out []any, err error) {
	for rest := path; rest != ""; {
		if rest[0] == '.' {
			rest = rest[1:]
			continue
		}
		if rest[0] == '[' {
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return nil, fmt.Errorf("path %s: ] is missing", path)
			}
			if n, err := strconv.Atoi(rest[1:end]); err == nil {
				out = append(out, n)
			} else {
				out = append(out, rest[1:end])
			}
			rest = rest[end+1:]
			continue
		}
		end := strings.IndexAny(rest, ".[")
		if end < 0 {
			end = len(rest)
		}
		out, rest = append(out, rest[:end]), rest[end:]
	}
	return out, nil
}

// set returns tree with value at the path; an index one past a list's end appends.
func set(tree any, path []any, value any) (any, error) {
	if len(path) == 0 {
		if s, ok := value.(string); ok {
			if n, repeat := strings.CutPrefix(s, "<repeat "); repeat { // <repeat 64 a>: sixty-four times a
				count, what, _ := strings.Cut(strings.TrimSuffix(n, ">"), " ")
				times, err := strconv.Atoi(count)
				return strings.Repeat(what, times), err
			}
		}
		return value, nil
	}
	gone := len(path) == 1 && value == "<gone>"
	switch step := path[0].(type) {
	case string:
		m, ok := tree.(map[string]any)
		if !ok && tree != nil {
			return nil, fmt.Errorf("%v is no object", tree)
		}
		if m == nil {
			m = map[string]any{}
		}
		if gone {
			delete(m, step)
			return m, nil
		}
		child, err := set(m[step], path[1:], value)
		m[step] = child
		return m, err
	case int:
		l, ok := tree.([]any)
		if !ok && tree != nil || step > len(l) {
			return nil, fmt.Errorf("no element %d", step)
		}
		if gone {
			return slices.Delete(l, step, step+1), nil
		}
		if step == len(l) {
			l = append(l, nil)
		}
		child, err := set(l[step], path[1:], value)
		l[step] = child
		return l, err
	}
	return nil, fmt.Errorf("step %v", path[0])
}
