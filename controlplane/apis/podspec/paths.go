// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"maps"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fairlead/fairlead/controlplane/apis/rule"
)

// localPath reports a path that leaves the directory it is relative to.
func localPath(r *rule.Report, at *field.Path, p string) {
	if path.IsAbs(p) {
		r.Invalid(at, p, "must be a relative path")
	}
	noBacksteps(r, at, p)
}

// ownPath is localPath for files that a volume's writer makes: names that start with ".." are its own.
func ownPath(r *rule.Report, at *field.Path, p string) {
	localPath(r, at, p)
	if strings.HasPrefix(p, "..") && p != ".." && !strings.HasPrefix(p, "../") {
		r.Invalid(at, p, "must not start with '..'")
	}
}

func noBacksteps(r *rule.Report, at *field.Path, p string) {
	if slices.Contains(strings.Split(strings.ReplaceAll(p, `\`, "/"), "/"), "..") {
		r.Invalid(at, p, "must not contain '..'")
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
