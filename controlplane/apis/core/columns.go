// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"net"
	"slices"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func podTemplateColumns() []resource.Column[*v1.PodTemplate] {
	cols := column.Containers(func(t *v1.PodTemplate) *v1.PodSpec { return &t.Template.Spec })
	cols[0].Priority, cols[1].Priority = 0, 0
	cols = slices.Insert(cols, 0, column.Name[*v1.PodTemplate]())
	return append(cols, column.Text("Pod Labels", "Labels of the pods made from the template.", func(t *v1.PodTemplate) string {
		return labels.FormatLabels(t.Template.Labels)
	}))
}

func replicationControllerColumns() []resource.Column[*v1.ReplicationController] {
	cols := []resource.Column[*v1.ReplicationController]{
		column.Int("Desired", "Pods wanted.", func(rc *v1.ReplicationController) int32 { return deref(rc.Spec.Replicas) }),
		column.Int("Current", "Pods there are.", func(rc *v1.ReplicationController) int32 { return rc.Status.Replicas }),
		column.Int("Ready", "Pods that are ready.", func(rc *v1.ReplicationController) int32 { return rc.Status.ReadyReplicas }),
	}
	cols = append(cols, column.Containers(func(rc *v1.ReplicationController) *v1.PodSpec {
		if rc.Spec.Template == nil {
			return nil
		}
		return &rc.Spec.Template.Spec
	})...)
	return column.Standard(append(cols, column.Wide(column.Text("Selector", "Labels of the pods that are counted.",
		func(rc *v1.ReplicationController) string { return labels.FormatLabels(rc.Spec.Selector) })))...)
}

func endpointsColumns() []resource.Column[*v1.Endpoints] {
	return column.Standard(column.Text("Endpoints", "Addresses and ports behind the service.", func(e *v1.Endpoints) string {
		var list []string
		for _, s := range e.Subsets {
			if len(s.Ports) == 0 {
				for _, a := range s.Addresses {
					list = append(list, a.IP)
				}
			}
			for _, p := range s.Ports {
				for _, a := range s.Addresses {
					list = append(list, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
				}
			}
		}
		if len(list) == 0 && len(e.Subsets) > 0 {
			return ""
		}
		return column.FirstOf(list, 3, ",", column.None)
	}))
}

func namespaceColumns() []resource.Column[*v1.Namespace] {
	return column.Standard(column.Text("Status", "Phase of the namespace.", func(n *v1.Namespace) string { return string(n.Status.Phase) }))
}

func secretColumns() []resource.Column[*v1.Secret] {
	return column.Standard(
		column.Text("Type", "What programs may expect in the data.", func(s *v1.Secret) string { return string(s.Type) }),
		column.Int("Data", "Number of entries.", func(s *v1.Secret) int { return len(s.Data) }),
	)
}

func configMapColumns() []resource.Column[*v1.ConfigMap] {
	return column.Standard(column.Int("Data", "Number of entries.", func(c *v1.ConfigMap) int { return len(c.Data) + len(c.BinaryData) }))
}

func serviceAccountColumns() []resource.Column[*v1.ServiceAccount] {
	return column.Standard(column.Int("Secrets", "Number of secrets that pods of the account may use.",
		func(a *v1.ServiceAccount) int { return len(a.Secrets) }))
}

func resourceQuotaColumns() []resource.Column[*v1.ResourceQuota] {
	used := func(wantLimits bool) func(*v1.ResourceQuota) string {
		return func(q *v1.ResourceQuota) string {
			var parts []string
			for name, hard := range q.Status.Hard {
				if strings.HasPrefix(string(name), "limits.") == wantLimits {
					u := q.Status.Used[name]
					parts = append(parts, fmt.Sprintf("%s: %s/%s", name, u.String(), hard.String()))
				}
			}
			sort.Strings(parts)
			return strings.Join(parts, ", ")
		}
	}
	// The age stands last, where people expect it since there were two columns.
	return column.Standard(
		column.Text("Request", "Used and allowed amounts, without limits.*.", used(false)),
		column.Text("Limit", "Used and allowed amounts of limits.*.", used(true)),
	)
}

func eventColumns() []resource.Column[*v1.Event] {
	first := func(e *v1.Event) string {
		if e.FirstTimestamp.IsZero() {
			return column.Since(metav1.Time(e.EventTime))
		}
		return column.Since(e.FirstTimestamp)
	}
	last := func(e *v1.Event) string {
		switch {
		case e.Series != nil:
			return column.Since(metav1.Time(e.Series.LastObservedTime))
		case e.LastTimestamp.IsZero():
			return first(e)
		}
		return column.Since(e.LastTimestamp)
	}
	name := column.Wide(column.Name[*v1.Event]())
	return []resource.Column[*v1.Event]{
		column.Text("Last Seen", "Time since it was last observed.", last),
		column.Text("Type", "Normal or Warning.", func(e *v1.Event) string { return e.Type }),
		column.Text("Reason", "Why it happened, in one word.", func(e *v1.Event) string { return e.Reason }),
		column.Text("Object", "The object that the event is about.", func(e *v1.Event) string {
			kind := strings.ToLower(e.InvolvedObject.Kind)
			if e.InvolvedObject.Name == "" {
				return kind
			}
			return kind + "/" + e.InvolvedObject.Name
		}),
		column.Wide(column.Text("Subobject", "The part of the object that the event is about.", func(e *v1.Event) string { return e.InvolvedObject.FieldPath })),
		column.Wide(column.Text("Source", "Who reports it.", func(e *v1.Event) string {
			who, where := column.Or(e.Source.Component, e.ReportingController), column.Or(e.Source.Host, e.ReportingInstance)
			if where == "" {
				return who
			}
			return who + ", " + where
		})),
		column.Text("Message", "What happened, in words.", func(e *v1.Event) string { return strings.TrimSpace(e.Message) }),
		column.Wide(column.Text("First Seen", "Time since it was first observed.", first)),
		column.Wide(column.Int("Count", "How often it was observed.", func(e *v1.Event) int32 {
			switch {
			case e.Series != nil:
				return e.Series.Count
			case e.Count == 0:
				return 1
			}
			return e.Count
		})),
		name,
	}
}

func deref(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}
