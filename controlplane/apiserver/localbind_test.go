// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead/fairlead/controlplane/apiserver"
	"github.com/fairlead/fairlead/controlplane/apiserver/apitest"
)

// bindings is admission that marks bindings, and refuses those to the node "forbidden".
type bindings struct{}

func (bindings) Handles(admission.Operation) bool { return true }

func (bindings) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if b, ok := a.GetObject().(*corev1.Binding); ok {
		metav1.SetMetaDataAnnotation(&b.ObjectMeta, "admitted", fmt.Sprint(a.GetOperation(), " ", a.GetNamespace(), "/", a.GetName(), " by ", a.GetUserInfo().GetName()))
	}
	return nil
}

func (bindings) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if b, ok := a.GetObject().(*corev1.Binding); ok && b.Target.Name == "forbidden" {
		return admission.NewForbidden(a, errors.New("not that node"))
	}
	return nil
}

// TestLocalBindingIsTheSame compares the short way of a binding (protobuf) with the generic handler (JSON).
func TestLocalBindingIsTheSame(t *testing.T) {
	cfg := apitest.Start(t, apitest.Options{Local: true, Configure: func(c *apiserver.Config) {
		c.Guards = func(ctx context.Context, env apiserver.Env) (apiserver.Guards, error) {
			g, err := apitest.Guards(ctx, env)
			g.Admission = func(context.Context, apiserver.Env) (admission.Interface, error) { return bindings{}, nil }
			return g, err
		}
	}})
	ways := map[string]kubernetes.Interface{}
	for _, format := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		c := rest.CopyConfig(cfg)
		c.ContentType, c.AcceptContentTypes = format, format
		ways[format] = kubernetes.NewForConfigOrDie(c)
	}
	for _, c := range []struct {
		name string
		want int32 // HTTP status; 0 means success
		bind func(p *corev1.Pod) *corev1.Binding
	}{
		{"a pod without a node", 0, func(p *corev1.Pod) *corev1.Binding { return binding(p.Name, "n1") }},
		{"the pod with this uid", 0, func(p *corev1.Pod) *corev1.Binding {
			b := binding(p.Name, "n1")
			b.UID = p.UID
			return b
		}},
		{"another pod's uid", 409, func(p *corev1.Pod) *corev1.Binding {
			b := binding(p.Name, "n1")
			b.UID = types.UID("another")
			return b
		}},
		{"an old resource version", 409, func(p *corev1.Pod) *corev1.Binding {
			b := binding(p.Name, "n1")
			b.ResourceVersion = "1"
			return b
		}},
		{"no such pod", 404, func(*corev1.Pod) *corev1.Binding { return binding("absent", "n1") }},
		{"no node named", 422, func(p *corev1.Pod) *corev1.Binding { return binding(p.Name, "") }},
		{"another kind of target", 422, func(p *corev1.Pod) *corev1.Binding {
			b := binding(p.Name, "n1")
			b.Target.Kind = "Rack"
			return b
		}},
		{"another namespace in the body", 400, func(p *corev1.Pod) *corev1.Binding {
			b := binding(p.Name, "n1")
			b.Namespace = "elsewhere"
			return b
		}},
		{"admission refuses", 403, func(p *corev1.Pod) *corev1.Binding { return binding(p.Name, "forbidden") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := map[string]metav1.Status{}
			for format, client := range ways {
				pods := client.CoreV1().Pods("default")
				p, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: podSpec()}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				var status metav1.Status
				if err := pods.Bind(t.Context(), c.bind(p), metav1.CreateOptions{}); err != nil {
					var s apierrors.APIStatus
					if !errors.As(err, &s) {
						t.Fatalf("%s: %v", format, err)
					}
					status = s.Status()
				}
				if status.Code != c.want {
					t.Errorf("%s: status %d %q, want %d", format, status.Code, status.Message, c.want)
				}
				status.Message = "" // names uids
				status.Details = nil
				seen[format] = status
				after, err := pods.Get(t.Context(), "p", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				node, admitted := "", ""
				if c.want == 0 {
					node, admitted = "n1", "CREATE default/p by system:apiserver"
				}
				if after.Spec.NodeName != node || after.Annotations["admitted"] != admitted {
					t.Errorf("%s: the pod is on %q, admitted as %q; want %q, %q", format, after.Spec.NodeName, after.Annotations["admitted"], node, admitted)
				}
				none := int64(0)
				if err := pods.Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil {
					t.Fatal(err)
				}
			}
			if a, b := seen["application/json"], seen["application/vnd.kubernetes.protobuf"]; a.Reason != b.Reason || a.Status != b.Status {
				t.Errorf("JSON was answered %v, protobuf %v", a, b)
			}
		})
	}
}

func binding(pod, node string) *corev1.Binding {
	return &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
}
