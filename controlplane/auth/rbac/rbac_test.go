// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// setup returns the authorizer over a cluster that holds the text policy besides the defaults.
func setup(t *testing.T, text string) (*Authorizer, *fake.Clientset, informers.SharedInformerFactory) {
	t.Helper()
	p, err := DefaultPolicy()
	if err != nil {
		t.Fatal(err)
	}
	// What the aggregation controller would do.
	for _, r := range p.ClusterRoles {
		if r.AggregationRule == nil {
			continue
		}
		for _, part := range p.ClusterRoles {
			for label := range r.AggregationRule.ClusterRoleSelectors[0].MatchLabels {
				if part.Labels[label] == "true" {
					r.Rules = append(r.Rules, part.Rules...)
				}
			}
		}
	}
	if err := p.parse(text); err != nil {
		t.Fatal(err)
	}
	var objects []runtime.Object
	for _, o := range p.ClusterRoles {
		objects = append(objects, o)
	}
	for _, o := range p.ClusterRoleBindings {
		objects = append(objects, o)
	}
	for _, o := range p.Roles {
		objects = append(objects, o)
	}
	for _, o := range p.RoleBindings {
		objects = append(objects, o)
	}
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	a := New(factory)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	factory.Start(ctx.Done())
	t.Cleanup(factory.Shutdown)
	t.Cleanup(cancel)
	factory.WaitForCacheSync(ctx.Done())
	return a, client, factory
}

func person(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
}

// ask reads "verb group/resource[/sub] [namespace/name]" or "verb url PATH".
func ask(u user.Info, text string) authorizer.AttributesRecord {
	w := strings.Fields(text)
	if w[1] == "url" {
		return authorizer.AttributesRecord{User: u, Verb: w[0], Path: w[2]}
	}
	group, rest, _ := strings.Cut(w[1], "/")
	resource, sub, _ := strings.Cut(rest, "/")
	if group == "core" {
		group = ""
	}
	a := authorizer.AttributesRecord{User: u, Verb: w[0], APIGroup: group, Resource: resource, Subresource: sub, ResourceRequest: true}
	if len(w) > 2 {
		a.Namespace, a.Name, _ = strings.Cut(w[2], "/")
	}
	return a
}

const testPolicy = `
role reader
    READ core pods
role in a writer
    create,update core configmaps = settings
    get */scale */scale
    * apps */scale
    get * */log
bind in a reader as cluster-wide-role-here user:nobody
bind in a writer user:ann
bind admin as nothing user:nobody2
bind in b cluster/view group:team
bind reader group:auditors
bind in a gone user:lost
`

func TestAuthorize(t *testing.T) {
	a, _, _ := setup(t, testPolicy)
	sa := func(ns, name string) user.Info {
		return person("system:serviceaccount:"+ns+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+ns)
	}
	for _, c := range []struct {
		name string
		who  user.Info
		what string
		want bool
	}{
		{"masters do anything", person("x", "system:masters"), "delete core/nodes", true},
		{"masters read any URL", person("x", "system:masters"), "get url /metrics", true},
		{"anybody logged in discovers", person("x"), "get url /apis/apps/v1", true},
		{"nobody logged in sees health", &user.DefaultInfo{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}, "get url /healthz", true},
		{"nobody logged in sees no metrics", &user.DefaultInfo{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}, "get url /metrics", false},
		{"nobody logged in discovers nothing", &user.DefaultInfo{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}, "get url /apis", false},
		{"a URL prefix is not a substring", person("x"), "get url /apisfoo", false},
		{"only get on URLs", person("x"), "post url /apis", false},
		{"the URL rule says nothing about resources", person("x"), "get core/pods", false},
		{"everybody asks about himself", person("x"), "create authorization.k8s.io/selfsubjectaccessreviews", true},
		{"but not about others", person("x"), "create authorization.k8s.io/subjectaccessreviews", false},
		{"a role in its namespace", person("ann"), "update core/configmaps a/settings", true},
		{"another name", person("ann"), "update core/configmaps a/other", false},
		{"no name", person("ann"), "update core/configmaps a", false},
		{"another namespace", person("ann"), "update core/configmaps b/settings", false},
		{"cluster-wide", person("ann"), "update core/configmaps", false},
		{"another verb", person("ann"), "delete core/configmaps a/settings", false},
		{"another group", person("ann"), "update apps/configmaps a/settings", false},
		{"any scale of a group", person("ann"), "update apps/deployments/scale a/x", true},
		{"not the resource itself", person("ann"), "update apps/deployments a/x", false},
		{"not another subresource", person("ann"), "update apps/deployments/status a/x", false},
		{"any log of any group", person("ann"), "get core/pods/log a/x", true},
		{"another user of the same name in a group", person("bob", "ann"), "update core/configmaps a/settings", false},
		{"a group's ClusterRole in a namespace", person("bob", "team"), "list apps/deployments b", true},
		{"view shows no secrets", person("bob", "team"), "get core/secrets b/x", false},
		{"view writes nothing", person("bob", "team"), "create core/pods b", false},
		{"a ClusterRole bound everywhere", person("eve", "auditors"), "watch core/pods any", true},
		{"case matters", person("Ann"), "update core/configmaps a/settings", false},
		{"a controller's service account", sa("kube-system", "job-controller"), "create core/pods a", true},
		{"the same name in another namespace", sa("default", "job-controller"), "create core/pods a", false},
		{"any service account reads the token keys", sa("default", "x"), "get url /openid/v1/jwks", true},
		{"a person does not", person("x"), "get url /openid/v1/jwks", false},
		{"the scheduler binds", person("system:kube-scheduler"), "create core/pods/binding a/x", true},
		{"the scheduler reads no secrets", person("system:kube-scheduler"), "get core/secrets a/x", false},
		{"who gathers roles escalates them", sa("kube-system", "clusterrole-aggregation-controller"), "escalate rbac.authorization.k8s.io/clusterroles /admin", true},
		{"the controller manager does not", person("system:kube-controller-manager"), "escalate rbac.authorization.k8s.io/clusterroles /admin", false},
		{"the controller manager reads for its informers", person("system:kube-controller-manager"), "watch apps/deployments", true},
		{"the controller manager makes no pods", person("system:kube-controller-manager"), "create core/pods a", false},
		{"the API server reaches kubelets", person("kube-apiserver-kubelet-client"), "create core/nodes/proxy /n1", true},
		{"a joining node asks for a certificate", person("system:bootstrap:abcdef", "system:bootstrappers", "system:bootstrappers:fairlead:default-node-token"),
			"create certificates.k8s.io/certificatesigningrequests", true},
		{"any other bootstrap token does not", person("system:bootstrap:abcdef", "system:bootstrappers"), "create certificates.k8s.io/certificatesigningrequests",
			false},
		{"a node reads what its dataplane needs", person("system:node:n1", "system:nodes"), "list networking.k8s.io/networkpolicies", true},
		{"a node has no other rights by RBAC", person("system:node:n1", "system:nodes"), "get core/secrets a/x", false},
		{"a binding to a role that is gone", person("lost"), "get core/pods a", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			decision, reason, err := a.Authorize(t.Context(), ask(c.who, c.what))
			if err != nil {
				t.Fatal(err)
			}
			want := authorizer.DecisionNoOpinion
			if c.want {
				want = authorizer.DecisionAllow
			}
			if decision != want {
				t.Errorf("%s: %v (%s), want %v", c.what, decision, reason, want)
			}
		})
	}
}

func TestRulesFor(t *testing.T) {
	a, _, _ := setup(t, testPolicy)
	resources, urls, incomplete, err := a.RulesFor(t.Context(), person("ann"), "a")
	if err != nil || incomplete {
		t.Fatalf("incomplete %v, error %v", incomplete, err)
	}
	if !slices.ContainsFunc(resources, func(r authorizer.ResourceRuleInfo) bool {
		return slices.Equal(r.GetResourceNames(), []string{"settings"})
	}) {
		t.Error("the rule of the namespaced role is missing")
	}
	if !slices.ContainsFunc(urls, func(r authorizer.NonResourceRuleInfo) bool { return slices.Contains(r.GetNonResourceURLs(), "/apis/*") }) {
		t.Error("the discovery URLs are missing")
	}
	if _, _, incomplete, err := a.RulesFor(t.Context(), person("lost"), "a"); err == nil || !incomplete {
		t.Error("a role that cannot be read does not make the answer incomplete")
	}
}

func TestEscalation(t *testing.T) {
	_, client, factory := setup(t, `
role in a pods
    READ core pods
role secrets
    READ core secrets
role in a roles-editor
    WRITE rbac.authorization.k8s.io roles,rolebindings
role in a escalator
    escalate rbac.authorization.k8s.io roles
role in a binder
    bind rbac.authorization.k8s.io clusterroles = secrets
bind in a pods user:ann user:esc user:binder
bind in a roles-editor user:ann user:esc user:binder
bind in a escalator user:esc
bind in a binder user:binder
bind cluster-admin as root user:root
`)
	e := NewEscalation()
	e.SetExternalKubeInformerFactory(factory)
	e.SetExternalKubeClientSet(client)
	e.SetUnconditionalAuthorizer(New(factory))
	if err := e.ValidateInitialization(); err != nil {
		t.Fatal(err)
	}
	rule := func(text string) []rbacv1.PolicyRule {
		r, err := parseRule(strings.Fields(text))
		if err != nil {
			t.Fatal(err)
		}
		return []rbacv1.PolicyRule{r}
	}
	role := func(text string) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "r"}, Rules: rule(text)}
	}
	binding := func(kind, name string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind,
			Name: name},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: "ann"}}}
	}
	clusterRole := func(text string) *rbacv1.ClusterRole { return &rbacv1.ClusterRole{Rules: rule(text)} }
	renamed := role("READ core secrets")
	renamed.Labels = map[string]string{"x": "y"}
	moreSubjects := binding("ClusterRole", "secrets")
	moreSubjects.Subjects = append(moreSubjects.Subjects, rbacv1.Subject{Kind: "User", Name: "eve"})
	for _, c := range []struct {
		name     string
		who      user.Info
		obj, old runtime.Object
		resource string
		want     string // part of the refusal
	}{
		{"a role with what one has", person("ann"), role("get core pods"), nil, "roles", ""},
		{"a role with less than one has", person("ann"), role("list core pods = x"), nil, "roles", ""},
		{"a role with another verb", person("ann"), role("delete core pods"), nil, "roles", "not currently held"},
		{"a role with another resource", person("ann"), role("get core secrets"), nil, "roles", `Resources:["secrets"]`},
		{"a role with a star", person("ann"), role("get core *"), nil, "roles", "not currently held"},
		{"widening a role", person("ann"), role("get core secrets"), role("get core pods"), "roles", "not currently held"},
		{"a label on a role one could not write", person("ann"), renamed, role("READ core secrets"), "roles", ""},
		{"with the verb escalate", person("esc"), role("get core secrets"), nil, "roles", ""},
		{"binding a role one has", person("ann"), binding("Role", "pods"), nil, "rolebindings", ""},
		{"binding a role with more", person("ann"), binding("ClusterRole", "secrets"), nil, "rolebindings", "not currently held"},
		{"binding cluster-admin", person("ann"), binding("ClusterRole", "cluster-admin"), nil, "rolebindings", "not currently held"},
		{"binding a role that is not there", person("ann"), binding("Role", "nope"), nil, "rolebindings", "not found"},
		{"with the verb bind on it", person("binder"), binding("ClusterRole", "secrets"), nil, "rolebindings", ""},
		{"with the verb bind on another", person("binder"), binding("ClusterRole", "cluster-admin"), nil, "rolebindings", "not currently held"},
		{"more subjects on a binding one could not write", person("ann"), moreSubjects, binding("ClusterRole", "secrets"), "rolebindings", "not currently held"},
		{"a ClusterRole with what one has in one namespace only", person("ann"), clusterRole("get core pods"), nil, "clusterroles", "not currently held"},
		{"a gathering ClusterRole without rules", person("ann"), &rbacv1.ClusterRole{AggregationRule: &rbacv1.AggregationRule{}}, nil, "clusterroles",
			"cluster-admin privileges"},
		{"a gathering ClusterRole by a cluster admin", person("root"), &rbacv1.ClusterRole{AggregationRule: &rbacv1.AggregationRule{}}, nil, "clusterroles", ""},
		{"anything by masters", person("m", "system:masters"), clusterRole("* * *"), nil, "clusterroles", ""},
		{"anything by cluster-admin", person("root"), clusterRole("* * *"), nil, "clusterroles", ""},
		{"a URL one may not read", person("ann"), clusterRole("get url /metrics"), nil, "clusterroles", "/metrics"},
	} {
		t.Run(c.name, func(t *testing.T) {
			op, old := admission.Create, c.old
			if old != nil {
				op = admission.Update
			}
			namespace := ""
			if _, ok := c.obj.(*rbacv1.ClusterRole); !ok {
				namespace = "a"
			}
			gvr := rbacv1.SchemeGroupVersion.WithResource(c.resource)
			attributes := admission.NewAttributesRecord(c.obj, old, rbacv1.SchemeGroupVersion.WithKind("X"), namespace, "r", gvr, "", op, nil, false, c.who)
			err := e.Validate(t.Context(), attributes, nil)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want one with %q", err, c.want)
			case c.want == "not currently held" && !apierrors.IsForbidden(err):
				t.Errorf("%v is not Forbidden", err)
			}
		})
	}
}

func TestDefaultPolicyIsWhole(t *testing.T) {
	p, err := DefaultPolicy()
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]bool{}
	for _, r := range p.ClusterRoles {
		roles[r.Name] = true
		if len(r.Rules) == 0 && r.AggregationRule == nil {
			t.Errorf("ClusterRole %s allows nothing", r.Name)
		}
		if r.Labels["kubernetes.io/bootstrapping"] != "rbac-defaults" || r.Annotations[rbacv1.AutoUpdateAnnotationKey] != "true" {
			t.Errorf("ClusterRole %s is not marked as a default", r.Name)
		}
	}
	for _, b := range p.ClusterRoleBindings {
		if !roles[b.RoleRef.Name] {
			t.Errorf("ClusterRoleBinding %s names the unknown role %s", b.Name, b.RoleRef.Name)
		}
	}
	for _, b := range p.RoleBindings {
		if !slices.ContainsFunc(p.Roles, func(r *rbacv1.Role) bool { return r.Namespace == b.Namespace && r.Name == b.RoleRef.Name }) {
			t.Errorf("RoleBinding %s/%s names an unknown role", b.Namespace, b.Name)
		}
	}
	for _, name := range []string{"cluster-admin", "admin", "edit", "view", "system:node", "system:kube-dns", "system:controller:namespace-controller"} {
		if !roles[name] {
			t.Errorf("ClusterRole %s is missing", name)
		}
	}
	if len(p.NodeRules()) == 0 {
		t.Error("nodes may do nothing")
	}
}

func TestReconcile(t *testing.T) {
	p, err := DefaultPolicy()
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset()
	ctx := t.Context()
	if err := Reconcile(ctx, client, p); err != nil {
		t.Fatal(err)
	}
	roles := client.RbacV1().ClusterRoles()
	get := func(name string) *rbacv1.ClusterRole {
		t.Helper()
		r, err := roles.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// The administrator adds a rule to one role, takes one away from another, protects a third, and deletes a fourth.
	added := get("system:discovery")
	added.Rules = append(added.Rules, rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/own"}})
	emptied := get("system:kube-dns")
	emptied.Rules = nil
	protected := get("system:monitoring")
	protected.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
	protected.Rules = nil
	for _, r := range []*rbacv1.ClusterRole{added, emptied, protected} {
		if _, err := roles.Update(ctx, r, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := roles.Delete(ctx, "view", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Reconcile(ctx, client, p); err != nil {
		t.Fatal(err)
	}
	if r := get("system:discovery"); len(r.Rules) != 2 {
		t.Errorf("the administrator's rule is lost: %v", r.Rules)
	}
	if r := get("system:kube-dns"); len(r.Rules) == 0 {
		t.Error("the missing rules did not come back")
	}
	if r := get("system:monitoring"); len(r.Rules) != 0 {
		t.Error("a protected role was changed")
	}
	get("view")
	client.ClearActions()
	if err := Reconcile(ctx, client, p); err != nil {
		t.Fatal(err)
	}
	for _, a := range client.Actions() {
		if a.GetVerb() != "get" && a.GetVerb() != "list" && !(a.GetVerb() == "create" && a.GetResource().Resource == "namespaces") {
			t.Errorf("nothing to do, but %s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

// Between a server's list and its writes another server may put everything in place.
func TestReconcileBesideAnotherServer(t *testing.T) {
	policy, err := DefaultPolicy()
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset()
	if err := Reconcile(t.Context(), client, policy); err != nil {
		t.Fatal(err)
	}
	first := policy.ClusterRoles[0]
	damaged := first.DeepCopy()
	damaged.Rules = nil
	if _, err := client.RbacV1().ClusterRoles().Update(t.Context(), damaged, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for resource, list := range map[string]runtime.Object{"clusterroles": &rbacv1.ClusterRoleList{}, "clusterrolebindings": &rbacv1.ClusterRoleBindingList{}} {
		client.PrependReactor("list", resource, func(clienttesting.Action) (bool, runtime.Object, error) { return true, list, nil })
	}
	if err := Reconcile(t.Context(), client, policy); err != nil {
		t.Fatalf("objects appeared after the list: %v", err)
	}
	after, err := client.RbacV1().ClusterRoles().Get(t.Context(), first.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Rules) == 0 {
		t.Errorf("%s was not repaired", first.Name)
	}
}

func TestPolicyTextThatIsWrong(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a rule without a role", "    get core pods", "outside of a role"},
		{"a role twice", "role x\nrole x", "twice"},
		{"two words", "role x\n    get core", "want VERBS"},
		{"a subject of no kind", "bind x eve", "unknown subject"},
		{"a service account without namespace", "bind x sa:y", "sa:namespace/name"},
		{"an unknown word", "grant x", "unknown word"},
		{"no name", "role", "a name is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := new(Policy).parse(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
