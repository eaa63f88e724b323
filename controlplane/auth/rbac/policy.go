// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The default policy is text (policy/*.policy), read once at start. A line is one of
//
//	role [in NAMESPACE] NAME [gathers LABEL] [label LABEL]   a (Cluster)Role; its rules follow, indented
//	controller NAME                                          ClusterRole system:controller:NAME, bound to kube-system/NAME
//	bind [in NAMESPACE] ROLE [as NAME] SUBJECT...            a binding; SUBJECT is user:, group: or sa:namespace/name; in a namespace
//	                                                         cluster/ROLE is a ClusterRole
//	    VERBS GROUPS RESOURCES [= NAMES]                     a rule about resources; group core is ""
//	    VERBS url PATHS                                      a rule about URLs
//	    EVENTS                                               may write events
//
// Lists are separated by commas. READ stands for get,list,watch; WRITE for create,delete,deletecollection,patch,update. LABEL is what
// stands behind rbac.authorization.k8s.io/aggregate-to-. The text is this project's own notation for Kubernetes' documented defaults.
//
//go:embed policy/*.policy
var policyFiles embed.FS

// Policy is a set of roles and bindings.
type Policy struct {
	ClusterRoles        []*rbacv1.ClusterRole
	ClusterRoleBindings []*rbacv1.ClusterRoleBinding
	Roles               []*rbacv1.Role
	RoleBindings        []*rbacv1.RoleBinding
}

const (
	aggregateLabel   = "rbac.authorization.k8s.io/aggregate-to-"
	controllerPrefix = "system:controller:"
)

// DefaultPolicy returns Kubernetes' default roles and bindings and Fairlead's own.
func DefaultPolicy() (*Policy, error) {
	p := &Policy{}
	names, err := fs.Glob(policyFiles, "policy/*.policy")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		data, err := policyFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if err := p.parse(string(data)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	p.mark()
	return p, nil
}

// NodeRules are the rules of the role system:node, which the node authorizer applies.
func (p *Policy) NodeRules() []rbacv1.PolicyRule {
	for _, r := range p.ClusterRoles {
		if r.Name == "system:node" {
			return r.Rules
		}
	}
	return nil
}

// parse adds the roles and bindings written in text.
func (p *Policy) parse(text string) error {
	var rules *[]rbacv1.PolicyRule // of the role whose lines follow
	for i, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		var err error
		switch indented := line[0] == ' '; {
		case indented && rules == nil:
			err = fmt.Errorf("a rule outside of a role")
		case indented:
			var rule rbacv1.PolicyRule
			if rule, err = parseRule(words); err == nil {
				*rules = append(*rules, rule)
			}
		case words[0] == "role":
			rules, err = p.role(words[1:])
		case words[0] == "controller" && len(words) == 2:
			if rules, err = p.role([]string{controllerPrefix + words[1]}); err == nil {
				err = p.bind([]string{controllerPrefix + words[1], "sa:kube-system/" + words[1]})
			}
		case words[0] == "bind":
			rules, err = nil, p.bind(words[1:])
		default:
			err = fmt.Errorf("unknown word %q", words[0])
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return nil
}

func (p *Policy) role(words []string) (*[]rbacv1.PolicyRule, error) {
	namespace, words, err := inNamespace(words)
	if err != nil {
		return nil, err
	}
	name, words := words[0], words[1:]
	if namespace != "" {
		if len(words) > 0 {
			return nil, fmt.Errorf("unexpected %q", words)
		}
		r := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		p.Roles = append(p.Roles, r)
		return &r.Rules, nil
	}
	if slices.ContainsFunc(p.ClusterRoles, func(r *rbacv1.ClusterRole) bool { return r.Name == name }) {
		return nil, fmt.Errorf("role %s is there twice", name)
	}
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	for ; len(words) >= 2; words = words[2:] {
		switch words[0] {
		case "gathers":
			selector := metav1.LabelSelector{MatchLabels: map[string]string{aggregateLabel + words[1]: "true"}}
			r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{selector}}
		case "label":
			r.Labels[aggregateLabel+words[1]] = "true"
		default:
			return nil, fmt.Errorf("unknown word %q", words[0])
		}
	}
	if len(words) > 0 {
		return nil, fmt.Errorf("unexpected %q", words)
	}
	p.ClusterRoles = append(p.ClusterRoles, r)
	return &r.Rules, nil
}

func (p *Policy) bind(words []string) error {
	namespace, words, err := inNamespace(words)
	if err != nil {
		return err
	}
	role, words := words[0], words[1:]
	name := role
	if len(words) >= 2 && words[0] == "as" {
		name, words = words[1], words[2:]
	}
	var subjects []rbacv1.Subject
	for _, w := range words {
		kind, value, _ := strings.Cut(w, ":")
		switch kind {
		case "user":
			subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: value})
		case "group":
			subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: value})
		case "sa":
			ns, sa, ok := strings.Cut(value, "/")
			if !ok {
				return fmt.Errorf("%q: want sa:namespace/name", w)
			}
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: sa})
		default:
			return fmt.Errorf("unknown subject %q", w)
		}
	}
	if namespace == "" {
		p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		})
		return nil
	}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role}
	if clusterRole, ok := strings.CutPrefix(role, "cluster/"); ok {
		ref.Kind, ref.Name = "ClusterRole", clusterRole
	}
	p.RoleBindings = append(p.RoleBindings, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: strings.TrimPrefix(name, "cluster/")}, Subjects: subjects, RoleRef: ref,
	})
	return nil
}

// inNamespace takes "in NAMESPACE" off words and makes sure that a name is left.
func inNamespace(words []string) (namespace string, rest []string, err error) {
	if len(words) >= 2 && words[0] == "in" {
		namespace, words = words[1], words[2:]
	}
	if len(words) == 0 {
		return "", nil, fmt.Errorf("a name is missing")
	}
	return namespace, words, nil
}

func parseRule(words []string) (r rbacv1.PolicyRule, err error) {
	if len(words) == 1 && words[0] == "EVENTS" {
		return rbacv1.PolicyRule{Verbs: []string{"create", "patch", "update"}, APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}}, nil
	}
	if len(words) != 3 && (len(words) != 5 || words[3] != "=") {
		return r, fmt.Errorf("want VERBS GROUPS RESOURCES [= NAMES], got %q", words)
	}
	for _, v := range strings.Split(words[0], ",") {
		switch v {
		case "READ":
			r.Verbs = append(r.Verbs, "get", "list", "watch")
		case "WRITE":
			r.Verbs = append(r.Verbs, "create", "delete", "deletecollection", "patch", "update")
		default:
			r.Verbs = append(r.Verbs, v)
		}
	}
	slices.Sort(r.Verbs)
	if words[1] == "url" {
		r.NonResourceURLs = strings.Split(words[2], ",")
		return r, nil
	}
	for _, g := range strings.Split(words[1], ",") {
		if g == "core" {
			g = ""
		}
		r.APIGroups = append(r.APIGroups, g)
	}
	r.Resources = strings.Split(words[2], ",")
	if len(words) == 5 {
		r.ResourceNames = strings.Split(words[4], ",")
	}
	return r, nil
}

// mark gives every object the label and annotation by which Kubernetes knows its defaults and keeps them up to date.
func (p *Policy) mark() {
	each := func(m *metav1.ObjectMeta) {
		if m.Labels == nil {
			m.Labels = map[string]string{}
		}
		m.Labels["kubernetes.io/bootstrapping"] = "rbac-defaults"
		m.Annotations = map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"}
	}
	for _, o := range p.ClusterRoles {
		each(&o.ObjectMeta)
	}
	for _, o := range p.ClusterRoleBindings {
		each(&o.ObjectMeta)
	}
	for _, o := range p.Roles {
		each(&o.ObjectMeta)
	}
	for _, o := range p.RoleBindings {
		each(&o.ObjectMeta)
	}
}
