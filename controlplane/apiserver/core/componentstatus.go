// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
)

// componentStatuses is the deprecated resource componentstatuses: what this server itself knows about the health of others, computed for each
// request. That is the store; scheduler and controllers are not known to it, and nothing is made up about them.
type componentStatuses struct{ client kubernetes.Interface }

var (
	_ rest.Getter             = &componentStatuses{}
	_ rest.Lister             = &componentStatuses{}
	_ rest.ShortNamesProvider = &componentStatuses{}
)

const (
	storeComponent = "etcd-0"
	healthTimeout  = 5 * time.Second
)

func (c *componentStatuses) New() runtime.Object     { return &corev1.ComponentStatus{} }
func (c *componentStatuses) NewList() runtime.Object { return &corev1.ComponentStatusList{} }
func (c *componentStatuses) Destroy()                {}
func (c *componentStatuses) NamespaceScoped() bool   { return false }
func (c *componentStatuses) GetSingularName() string { return "componentstatus" }
func (c *componentStatuses) ShortNames() []string    { return []string{"cs"} }

func (c *componentStatuses) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if name != storeComponent {
		return nil, apierrors.NewNotFound(corev1.Resource("componentstatuses"), name)
	}
	s := c.store(ctx)
	return &s, nil
}

func (c *componentStatuses) List(ctx context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	list := &corev1.ComponentStatusList{}
	if o == nil || o.LabelSelector == nil || o.LabelSelector.Empty() { // they have no labels
		list.Items = append(list.Items, c.store(ctx))
	}
	return list, nil
}

func (c *componentStatuses) store(ctx context.Context) corev1.ComponentStatus {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz/etcd").Do(ctx).Error(); err != nil {
		condition.Status, condition.Message, condition.Error = corev1.ConditionFalse, "", err.Error()
	}
	return corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: storeComponent}, Conditions: []corev1.ComponentCondition{condition}}
}

func (c *componentStatuses) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	t := &metav1.Table{}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		t.ColumnDefinitions = []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name"}, {Name: "Status", Type: "string"}, {Name: "Message", Type: "string"}, {Name: "Error", Type: "string"},
		}
	}
	row := func(obj runtime.Object) error {
		s := obj.(*corev1.ComponentStatus)
		status, message, failure := "Unknown", "", ""
		for _, c := range s.Conditions {
			if c.Type == corev1.ComponentHealthy {
				message, failure = c.Message, c.Error
				status = map[corev1.ConditionStatus]string{corev1.ConditionTrue: "Healthy", corev1.ConditionFalse: "Unhealthy"}[c.Status]
			}
		}
		t.Rows = append(t.Rows, metav1.TableRow{Cells: []any{s.Name, status, message, failure}, Object: runtime.RawExtension{Object: s}})
		return nil
	}
	if meta.IsListType(object) {
		return t, meta.EachListItem(object, row)
	}
	return t, row(object)
}
