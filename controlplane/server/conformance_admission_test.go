// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	v1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// changedValidators lists, updates, patches and deletes validating webhooks and looks at what they refuse after each.
func changedValidators(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	refuser(t, client, "changing", rules("", "configmaps", v1.Create))
	hooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	if _, err := hooks.Patch(t.Context(), "changing", types.MergePatchType, []byte(`{"metadata":{"labels":{"webhooks":"changing"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	create := func() error { _, err := probe(t, client, nil); return err }
	refused(t, "changing", create)
	selector := metav1.ListOptions{LabelSelector: "webhooks=changing"}
	list, err := hooks.List(t.Context(), selector)
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("configurations by label: %v, %v, want one", list, err)
	}
	hook := &list.Items[0]
	hook.Webhooks[0].Rules[0].Operations = []v1.OperationType{v1.Update}
	if _, err := hooks.Update(t.Context(), hook, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(t, "creates are allowed when it asks about updates", create)
	if _, err := hooks.Patch(t.Context(), "changing", types.JSONPatchType, []byte(`[{"op":"replace","path":"/webhooks/0/rules/0/operations","value":["CREATE"]}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	refused(t, "changing", create)
	if err := hooks.DeleteCollection(t.Context(), metav1.DeleteOptions{}, selector); err != nil {
		t.Fatal(err)
	}
	soon(t, "creates are allowed when it is deleted", create)
}

// deniedObjects refuses pods and ConfigMaps that say so, when they are made, updated and patched, but not in a namespace that is left out.
func deniedObjects(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	config := asks(t, client, "compliance", func(r *admissionv1.AdmissionRequest) (string, error) {
		if strings.Contains(string(r.Object.Raw), "webhook-disallow") {
			return "", errors.New("the object contains unwanted data")
		}
		return "", nil
	})
	hooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := hooks.Create(t.Context(), &v1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "compliance"}, Webhooks: []v1.ValidatingWebhook{{
		Name: "compliance.example.com", SideEffects: ptr.To(v1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, ClientConfig: config,
		NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "compliance", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"skipped"}}}},
		Rules:             append(rules("", "pods", v1.Create), rules("", "configmaps", v1.Create, v1.Update)...)}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hooks.Delete(context.Background(), "compliance", metav1.DeleteOptions{}) })
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	no := func(what string, err error) error {
		if err == nil || !strings.Contains(err.Error(), "denied the request: the object contains unwanted data") {
			return fmt.Errorf("%s: %v, want it denied", what, err)
		}
		return nil
	}
	soon(t, "a pod is denied", func() error {
		_, err := client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-"},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "webhook-disallow", Image: "example.com/c"}}}}, metav1.CreateOptions{})
		return no("a pod", err)
	})
	maps, bad := client.CoreV1().ConfigMaps("default"), map[string]string{"k": "webhook-disallow"}
	_, err = probe(t, client, bad)
	if err := no("a ConfigMap", err); err != nil {
		t.Error(err)
	}
	good, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "compliant"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	good.Data = bad
	_, err = maps.Update(t.Context(), good, metav1.UpdateOptions{})
	if err := no("an update", err); err != nil {
		t.Error(err)
	}
	_, err = maps.Patch(t.Context(), "compliant", types.StrategicMergePatchType, []byte(`{"data":{"k":"webhook-disallow"}}`), metav1.PatchOptions{})
	if err := no("a patch", err); err != nil {
		t.Error(err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "skipped", Labels: map[string]string{"compliance": "skipped"}}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ConfigMaps("skipped").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "any"}, Data: bad}, metav1.CreateOptions{}); err != nil {
		t.Errorf("in a namespace that is left out: %v", err)
	}
}

// slowWebhook takes 1.5 s: longer than a timeout of 1 s, which fails or not as the policy says, and shorter than one of 10 s or none.
func slowWebhook(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	asked := make(chan struct{}, 1000)
	config := asks(t, client, "slow", func(*admissionv1.AdmissionRequest) (string, error) {
		asked <- struct{}{}
		select {
		case <-time.After(1500 * time.Millisecond):
		case <-t.Context().Done():
		}
		return "", nil
	})
	hooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	write := func(name string) (was bool, err error) {
		_, err = client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}}, metav1.CreateOptions{})
		select {
		case <-asked:
			return true, err
		default:
			return false, err
		}
	}
	for i, c := range []struct {
		timeout int32 // 0: the default, 10 s
		policy  v1.FailurePolicyType
		fails   bool
	}{
		{1, v1.Fail, true}, {1, v1.Ignore, false}, {10, v1.Fail, false}, {0, v1.Fail, false},
	} {
		name := fmt.Sprintf("slow-%d", i)
		hook := v1.ValidatingWebhook{Name: "slow.example.com", SideEffects: ptr.To(v1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, ClientConfig: config,
			FailurePolicy: &c.policy, Rules: rules("", "secrets", v1.Create)}
		if c.timeout > 0 {
			hook.TimeoutSeconds = &c.timeout
		}
		if _, err := hooks.Create(t.Context(), &v1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []v1.ValidatingWebhook{hook}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		soon(t, name+" is asked", func() error {
			was, err := write(name)
			switch {
			case !was:
				return fmt.Errorf("it was not (%w)", err)
			case c.fails && (err == nil || !strings.Contains(err.Error(), "slow.example.com")):
				t.Errorf("timeout %d, %s: %v, want an error that names the webhook", c.timeout, c.policy, err)
			case !c.fails && err != nil:
				t.Errorf("timeout %d, %s: %v, want none", c.timeout, c.policy, err)
			}
			return nil
		})
		if err := hooks.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		soon(t, name+" is asked no more", func() error {
			if was, err := write(name); was || err != nil {
				return fmt.Errorf("it was: %t (%w)", was, err)
			}
			return nil
		})
	}
}

// skipMe has a mutating webhook with a match condition, which is changed and must be CEL.
func skipMe(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	hook := mutating("skipping", asks(t, client, "skipping", func(*admissionv1.AdmissionRequest) (string, error) {
		return `[{"op":"add","path":"/data","value":{"mutated":"yes"}}]`, nil
	}), rules("", "configmaps", v1.Create))
	hook.MatchConditions = []v1.MatchCondition{{Name: "skip", Expression: "!has(object.metadata.name) || object.metadata.name != 'skip-me'"}}
	hooks := client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	made, err := hooks.Create(t.Context(), &v1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "skipping"}, Webhooks: []v1.MutatingWebhook{hook}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hooks.Delete(context.Background(), "skipping", metav1.DeleteOptions{}) })
	soon(t, "others are mutated", func() error {
		data, err := probe(t, client, nil)
		if err == nil && data["mutated"] != "yes" {
			err = fmt.Errorf("data %v", data)
		}
		return err
	})
	m, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "skip-me"}}, metav1.CreateOptions{})
	if err != nil || len(m.Data) > 0 {
		t.Errorf("skip-me: %v, %v, want it as it came", m, err)
	}
	made.Webhooks[0].MatchConditions[0].Expression = "true"
	if made, err = hooks.Update(t.Context(), made, metav1.UpdateOptions{}); err != nil || made.Webhooks[0].MatchConditions[0].Expression != "true" {
		t.Errorf("changed match conditions: %v, %v", made, err)
	}
	hook.MatchConditions[0].Expression = "... [] bad expression"
	_, err = hooks.Create(t.Context(), &v1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Webhooks: []v1.MutatingWebhook{hook}}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "compilation failed") {
		t.Errorf("a match condition that is no CEL: %v, want Invalid with \"compilation failed\"", err)
	}
}

// policyWithVariables has a ValidatingAdmissionPolicy about Deployments whose expressions refer to variables, and to each other's.
func policyWithVariables(t *testing.T, _ *rest.Config, client kubernetes.Interface) {
	policies := client.AdmissionregistrationV1()
	_, err := policies.ValidatingAdmissionPolicies().Create(t.Context(), &v1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "odd"}, Spec: v1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &v1.MatchResources{ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "odd"}}, ResourceRules: []v1.NamedRuleWithOperations{{RuleWithOperations: rules("apps", "deployments", v1.Create, v1.Update)[0]}}},
		Variables:        []v1.Variable{{Name: "replicas", Expression: "object.spec.replicas"}, {Name: "oddReplicas", Expression: "variables.replicas % 2 == 1"}},
		Validations: []v1.Validation{
			{Expression: "variables.replicas > 1", Message: "at least two", Reason: ptr.To(metav1.StatusReasonForbidden)},
			{Expression: "variables.oddReplicas", MessageExpression: "'an odd number, not ' + string(variables.replicas)"},
		}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = policies.ValidatingAdmissionPolicyBindings().Create(t.Context(), &v1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "odd"},
		Spec: v1.ValidatingAdmissionPolicyBindingSpec{PolicyName: "odd", ValidationActions: []v1.ValidationAction{v1.Deny}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = policies.ValidatingAdmissionPolicyBindings().Delete(context.Background(), "odd", metav1.DeleteOptions{})
		_ = policies.ValidatingAdmissionPolicies().Delete(context.Background(), "odd", metav1.DeleteOptions{})
	})
	create := func(replicas int32) error {
		labels := map[string]string{"app": "odd"}
		_, err := client.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{GenerateName: "odd-", Labels: labels}, Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: onePodSpec()}}}, metav1.CreateOptions{})
		return err
	}
	soon(t, "too few replicas are refused", func() error {
		if err := create(1); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "at least two") {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
	if err := create(4); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "an odd number, not 4") {
		t.Errorf("an even number: %v, want Invalid with the message of an expression", err)
	}
	if err := create(3); err != nil {
		t.Errorf("what the policy allows: %v", err)
	}
}
