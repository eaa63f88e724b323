// SPDX-License-Identifier: Apache-2.0

package apis

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// accepted are the values that nothing is to be said against, by kind and path, with the reason.
var accepted = map[string]string{
	"PriorityClass value not negative":                                  "lower than any pod without a class",
	"Secret type one of the named values":                               "everybody may have types of their own",
	"Service spec.ipFamilies each one of the named values":              "refused where families are settled (core/servicealloc)",
	"Service spec.ipFamilyPolicy one of the named values":               "refused where families are settled (core/servicealloc)",
	"Pod spec.priority not negative":                                    "that of a class",
	"PodTemplate template.spec.priority not negative":                   "that of a class",
	"ReplicationController spec.template.spec.priority not negative":    "that of a class",
	"Deployment spec.template.spec.priority not negative":               "that of a class",
	"ReplicaSet spec.template.spec.priority not negative":               "that of a class",
	"StatefulSet spec.template.spec.priority not negative":              "that of a class",
	"DaemonSet spec.template.spec.priority not negative":                "that of a class",
	"Job spec.template.spec.priority not negative":                      "that of a class",
	"CronJob spec.jobTemplate.spec.template.spec.priority not negative": "that of a class",
}

// published is what the source of k8s.io/api says about its types.
type published struct {
	rules map[string][]string // "package.Type.Field": its +k8s: tags, without since when
	enums map[string]bool     // "package.Type": a string type of which the package names values
}

var since = regexp.MustCompile(`\+k8s:(alpha|beta)\([^)]*\)=`)

// readPublished parses the types of k8s.io/api from the module cache.
func readPublished(t *testing.T) published {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/api").Output()
	if err != nil {
		t.Fatalf("where k8s.io/api lies: %v", err)
	}
	root := strings.TrimSpace(string(dir))
	files, err := filepath.Glob(filepath.Join(root, "*", "v*", "*.go"))
	if err != nil || len(files) < 50 {
		t.Fatalf("sources of k8s.io/api in %s: %d, %v", root, len(files), err)
	}
	p := published{rules: map[string][]string{}, enums: map[string]bool{}}
	for _, file := range files {
		if !strings.HasPrefix(filepath.Base(file), "types") && !strings.HasPrefix(filepath.Base(file), "well_known") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		rel, _ := filepath.Rel(root, filepath.Dir(file))
		p.read("k8s.io/api/"+filepath.ToSlash(rel), parsed)
	}
	return p
}

func (p published) read(pkg string, file *ast.File) {
	for _, decl := range file.Decls {
		d, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				if name, ok := s.Type.(*ast.Ident); ok && d.Tok == token.CONST {
					p.enums[pkg+"."+name.Name] = true
				}
			case *ast.TypeSpec:
				st, ok := s.Type.(*ast.StructType)
				if !ok {
					continue
				}
				for _, f := range st.Fields.List {
					for _, name := range f.Names {
						for line := range strings.Lines(f.Doc.Text()) {
							if line = since.ReplaceAllString(strings.TrimSpace(line), ""); strings.HasPrefix(line, "+k8s:") {
								key := pkg + "." + s.Name.Name + "." + name.Name
								p.rules[key] = append(p.rules[key], strings.TrimPrefix(line, "+k8s:"))
							}
						}
					}
				}
			}
		}
	}
}

// bend is one change of a valid object that a rule does not allow.
type bend struct {
	path, why string
	value     any
}

// bends walks a valid object beside its type and returns what breaks each published rule of what is there, and of what may be.
func (p published) bends(typ reflect.Type, value any, path string, out *[]bend) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch typ.Kind() {
	case reflect.Struct:
		object, ok := value.(map[string]any)
		if !ok || !strings.HasPrefix(typ.PkgPath(), "k8s.io/api/") {
			return
		}
		for f := range typ.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" && f.Anonymous {
				p.bends(f.Type, value, path, out)
			}
			if name == "" || name == "-" || path == "" && (name == "metadata" || name == "status") {
				continue
			}
			at := strings.TrimPrefix(path+"."+name, ".")
			child, there := object[name]
			p.bendField(typ, f, child, there, at, out)
			if there {
				p.bends(f.Type, child, at, out)
			}
		}
	case reflect.Slice:
		if list, ok := value.([]any); ok {
			for i, v := range list {
				p.bends(typ.Elem(), v, fmt.Sprintf("%s[%d]", path, i), out)
			}
		}
	case reflect.Map:
		if object, ok := value.(map[string]any); ok {
			for k, v := range object {
				p.bends(typ.Elem(), v, path+"["+k+"]", out)
			}
		}
	}
}

func (p published) bendField(owner reflect.Type, f reflect.StructField, value any, there bool, at string, out *[]bend) {
	typ := f.Type
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	add := func(why string, v any) { *out = append(*out, bend{at, why, v}) }
	list, _ := value.([]any)
	for _, rule := range p.rules[owner.PkgPath()+"."+owner.Name()+"."+f.Name] {
		name, text, _ := strings.Cut(rule, "=")
		n, _ := strconv.Atoi(text)
		switch {
		case name == "required" && there:
			add("required", "<gone>")
		case name == "maxItems" && len(list) > 0:
			var many []any
			for range n + 1 {
				many = append(many, list[0])
			}
			add("maxItems", many)
		case name == "unique" && len(list) > 0:
			add("unique", []any{list[0], list[0]})
		case (name == "maxLength" || name == "maxBytes") && typ.Kind() == reflect.String:
			add(name, strings.Repeat("a", n+1))
		case name == "minimum":
			add("minimum", n-1)
		case name == "maximum":
			add("maximum", n+1)
		case name == "format" && typ.Kind() == reflect.String:
			add("format", "Not a~Name!")
		case name == "eachVal" && strings.HasPrefix(text, "+k8s:format"):
			add("eachVal", []any{"Not a~Name!"})
		case name == "eachKey" && strings.HasPrefix(text, "+k8s:format"):
			add("eachKey", map[string]any{"Not a~Name!": value})
		}
	}
	switch typ.Kind() {
	case reflect.String:
		if p.enums[typ.PkgPath()+"."+typ.Name()] {
			add("one of the named values", "No-Such-Value")
		}
	case reflect.Int32, reflect.Int64:
		add("not negative", -7)
	case reflect.Slice:
		if e := typ.Elem(); e.Kind() == reflect.String && p.enums[e.PkgPath()+"."+e.Name()] {
			add("each one of the named values", []any{"No-Such-Value"})
		}
	}
}

// TestPublishedFieldRules breaks, one by one, every rule that k8s.io/api declares about a field of a valid object: the tags +k8s:required, maxItems, minimum, format
// and so on; besides, an unknown value wherever the package names the values of a type, and a negative number wherever there is a number. Each must be refused
// with an error at that field, unless accepted says why not.
func TestPublishedFieldRules(t *testing.T) {
	p := readPublished(t)
	unused, tried := map[string]bool{}, 0
	for k := range accepted {
		unused[k] = true
	}
	eachKind(t, func(t *testing.T, r resource.Resource) {
		if r.SharesStorageWith != nil || r.Validate == nil {
			return
		}
		f := readRules(t, r)
		var all []bend
		p.bends(reflect.TypeOf(r.New()), f.Valid, "", &all)
		for _, b := range all {
			tried++
			key := r.Kind + " " + b.path + " " + b.why
			obj, err := bent(r, f.Valid, b)
			if err != nil {
				t.Errorf("%s: %v", key, err)
				continue
			}
			refused := refuses(r.Validate(context.Background(), obj), b.path)
			if _, fine := accepted[key]; fine {
				delete(unused, key)
				if refused {
					t.Errorf("%s: %v is refused, which was not expected", key, b.value)
				}
				continue
			}
			if !refused {
				text, _ := json.Marshal(b.value)
				t.Errorf("%s: %.80s is accepted", key, text)
			}
		}
	})
	for k := range unused {
		t.Errorf("nothing was tried at %s", k)
	}
	t.Logf("%d bent objects", tried)
}

// bent is the valid object with one change, decoded and defaulted.
func bent(r resource.Resource, valid map[string]any, b bend) (resource.Object, error) {
	text, err := json.Marshal(valid)
	if err != nil {
		return nil, err
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	path, err := splitPath(b.path)
	if err != nil {
		return nil, err
	}
	if tree, err = set(tree, path, b.value); err != nil {
		return nil, err
	}
	if text, err = json.Marshal(tree); err != nil {
		return nil, err
	}
	obj := r.New()
	if err := json.Unmarshal(text, obj); err != nil {
		return nil, err
	}
	if r.Default != nil {
		r.Default(obj)
	}
	if r.PrepareCreate != nil {
		r.PrepareCreate(context.Background(), obj)
	}
	return obj, nil
}

// refuses reports whether an error is at path, beneath it, or at what holds it (a union says which of its members is there).
func refuses(errs field.ErrorList, path string) bool {
	parent := path[:max(strings.LastIndex(path, "."), 0)]
	for _, e := range errs {
		if strings.HasPrefix(e.Field, path) || e.Field == parent {
			return true
		}
	}
	return false
}
