// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	v1 "k8s.io/api/flowcontrol/v1"

	"github.com/fairlead/fairlead/controlplane/apis/column"
	"github.com/fairlead/fairlead/controlplane/apis/resource"
)

func flowSchemaColumns() []resource.Column[*v1.FlowSchema] {
	return append(column.Standard(
		column.Text("PriorityLevel", "Priority level of the matching requests.", func(f *v1.FlowSchema) string { return f.Spec.PriorityLevelConfiguration.Name }),
		column.Int("MatchingPrecedence", "Order in which schemas are tried; lower goes first.", func(f *v1.FlowSchema) int32 { return f.Spec.MatchingPrecedence }),
		column.Text("DistinguisherMethod", "What makes two requests the same flow.", func(f *v1.FlowSchema) string {
			if f.Spec.DistinguisherMethod == nil {
				return column.None
			}
			return string(f.Spec.DistinguisherMethod.Type)
		}),
	), column.Text("MissingPL", "Whether the priority level does not exist.", func(f *v1.FlowSchema) string {
		for _, c := range f.Status.Conditions {
			if c.Type == v1.FlowSchemaConditionDangling {
				return string(c.Status)
			}
		}
		return "?"
	}))
}

func priorityLevelColumns() []resource.Column[*v1.PriorityLevelConfiguration] {
	limited := func(name, description string, of func(*v1.LimitedPriorityLevelConfiguration) *int32) resource.Column[*v1.PriorityLevelConfiguration] {
		return resource.Column[*v1.PriorityLevelConfiguration]{Name: name, Type: "string", Description: description,
			Value: func(p *v1.PriorityLevelConfiguration) any {
				if p.Spec.Limited == nil {
					return column.None
				}
				n := of(p.Spec.Limited)
				if n == nil {
					return column.None
				}
				return int64(*n)
			}}
	}
	queuing := func(name, description string, of func(*v1.QueuingConfiguration) int32) resource.Column[*v1.PriorityLevelConfiguration] {
		return limited(name, description, func(l *v1.LimitedPriorityLevelConfiguration) *int32 {
			if l.LimitResponse.Queuing == nil {
				return nil
			}
			return new(of(l.LimitResponse.Queuing))
		})
	}
	return column.Standard(
		column.Text("Type", "Exempt or Limited.", func(p *v1.PriorityLevelConfiguration) string { return string(p.Spec.Type) }),
		limited("NominalConcurrencyShares", "Share of the server's concurrency.",
			func(l *v1.LimitedPriorityLevelConfiguration) *int32 { return l.NominalConcurrencyShares }),
		queuing("Queues", "Number of queues.", func(q *v1.QueuingConfiguration) int32 { return q.Queues }),
		queuing("HandSize", "Queues that a flow may use.", func(q *v1.QueuingConfiguration) int32 { return q.HandSize }),
		queuing("QueueLengthLimit", "Requests that wait in a queue at most.", func(q *v1.QueuingConfiguration) int32 { return q.QueueLengthLimit }),
	)
}
