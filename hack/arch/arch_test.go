// SPDX-License-Identifier: Apache-2.0

// Package arch holds the rules about who may import whom, as a test that reads the import graph.
package arch

import (
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/fairlead/fairlead/"

// rule forbids packages below From to import anything below one of Never. Transitive rules also look through our own packages.
type rule struct {
	why        string
	from       []string
	never      []string
	transitive bool
}

var rules = []rule{
	{"the control plane and the dataplane meet only through the Kubernetes API", []string{"controlplane"}, []string{module + "dataplane", module + "cni"}, true},
	{"the dataplane and the control plane meet only through the Kubernetes API", []string{"dataplane"}, []string{module + "controlplane"}, true},
	{"the CNI plugin is small and starts in milliseconds", []string{"cni", "cmd/fairlead-cni"}, []string{module + "controlplane", module + "dataplane", "k8s.io"}, true},
	{"only commands know both halves", []string{"controlplane", "dataplane", "cni"}, []string{module + "cmd"}, true},
	{"what programs the kernel reads tables, not the Kubernetes API",
		[]string{"dataplane/loader", "dataplane/loadbalancer", "dataplane/conntrack", "dataplane/policy", "dataplane/route", "dataplane/tables", "dataplane/ipam"},
		[]string{"k8s.io/client-go", "k8s.io/api"}, true},
	{"Kubernetes itself is never imported, only its published modules", []string{"."}, []string{"k8s.io/kubernetes"}, false},
}

func TestImportRules(t *testing.T) {
	g := readGraph(t, "../..")
	if len(g) < 20 {
		t.Fatalf("only %d packages found: the graph was not read", len(g))
	}
	for _, r := range rules {
		for _, v := range r.violations(g) {
			t.Errorf("%s\n  %s", r.why, v)
		}
	}
}

// The rules themselves must be able to fail.
func TestRulesFindViolations(t *testing.T) {
	g := graph{
		module + "controlplane/a": {module + "hack/x"},
		module + "hack/x":         {module + "dataplane/b"},
		module + "cni/c":          {"k8s.io/klog/v2"},
		module + "dataplane/b":    {"fmt"},
	}
	if v := rules[0].violations(g); len(v) != 1 || !strings.Contains(v[0], "hack/x") {
		t.Errorf("an import through a third package is not found: %q", v)
	}
	if v := rules[2].violations(g); len(v) != 1 {
		t.Errorf("a forbidden module is not found: %q", v)
	}
	if v := rules[1].violations(g); len(v) != 0 {
		t.Errorf("found what is allowed: %q", v)
	}
}

// graph maps an import path to what it imports, tests excluded.
type graph map[string][]string

func readGraph(t *testing.T, root string) graph {
	t.Helper()
	g := graph{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && path != root && (name == "testdata" || name == "bin" || name == "out" || strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		if ok, err := build.Default.MatchFile(filepath.Dir(path), filepath.Base(path)); err != nil || !ok {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		pkg := module + filepath.ToSlash(rel)
		g[pkg] = append(g[pkg], []string{}...)
		for _, imp := range f.Imports {
			to, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			g[pkg] = append(g[pkg], to)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (r rule) violations(g graph) []string {
	var out []string
	for pkg := range g {
		if !slices.ContainsFunc(r.from, func(f string) bool { return f == "." || below(pkg, module+f) }) {
			continue
		}
		seen := map[string]bool{}
		r.walk(g, pkg, []string{pkg}, seen, &out)
	}
	slices.Sort(out)
	return out
}

// walk follows imports from pkg; path is how it got there.
func (r rule) walk(g graph, pkg string, path []string, seen map[string]bool, out *[]string) {
	for _, to := range g[pkg] {
		step := append(slices.Clone(path), to)
		if slices.ContainsFunc(r.never, func(n string) bool { return below(to, n) }) {
			*out = append(*out, strings.ReplaceAll(strings.Join(step, " -> "), module, ""))
			continue
		}
		if r.transitive && strings.HasPrefix(to, module) && !seen[to] {
			seen[to] = true
			r.walk(g, to, step, seen, out)
		}
	}
}

func below(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }
