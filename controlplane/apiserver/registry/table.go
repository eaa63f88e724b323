// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

// table renders objects as the rows that kubectl get prints. It implements rest.TableConvertor.
type table struct {
	columns     []resource.Column[resource.Object]
	definitions []metav1.TableColumnDefinition
}

func newTable(columns []resource.Column[resource.Object]) table {
	if len(columns) == 0 {
		columns = []resource.Column[resource.Object]{
			{Name: "Name", Format: "name", Value: func(o resource.Object) any { return o.GetName() }},
			{Name: "Age", Value: func(o resource.Object) any { return age(o.GetCreationTimestamp()) }},
		}
	}
	t := table{columns: columns}
	docs := metav1.ObjectMeta{}.SwaggerDoc()
	for _, c := range columns {
		d := metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Priority: c.Priority}
		if d.Type == "" {
			d.Type = "string"
		}
		if d.Description == "" {
			switch c.Name {
			case "Name":
				d.Description = docs["name"]
			case "Age":
				d.Description = docs["creationTimestamp"]
			}
		}
		t.definitions = append(t.definitions, d)
	}
	return t
}

func (t table) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	out := &metav1.Table{}
	if o, ok := options.(*metav1.TableOptions); !ok || o == nil || !o.NoHeaders {
		out.ColumnDefinitions = t.definitions
	}
	if list, err := meta.ListAccessor(object); err == nil {
		out.ResourceVersion = list.GetResourceVersion()
		out.Continue = list.GetContinue()
		out.RemainingItemCount = list.GetRemainingItemCount()
		out.Rows = make([]metav1.TableRow, 0, meta.LenList(object))
		return out, meta.EachListItem(object, func(item runtime.Object) error { return t.row(out, item) })
	}
	if o, err := meta.CommonAccessor(object); err == nil {
		out.ResourceVersion = o.GetResourceVersion()
	}
	return out, t.row(out, object)
}

func (t table) row(out *metav1.Table, object runtime.Object) error {
	o, ok := object.(resource.Object)
	if !ok {
		return fmt.Errorf("cannot show %T as a table row", object)
	}
	cells := make([]any, len(t.columns))
	for i, c := range t.columns {
		cells[i] = c.Value(o)
	}
	out.Rows = append(out.Rows, metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: object}})
	return nil
}

func age(created metav1.Time) string {
	if created.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(created.Time))
}
