// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	v1 "k8s.io/api/flowcontrol/v1"
)

func defaultFlowSchema(f *v1.FlowSchema) {
	if f.Spec.MatchingPrecedence == 0 {
		f.Spec.MatchingPrecedence = 1000
	}
}

func defaultPriorityLevel(p *v1.PriorityLevelConfiguration) {
	or := func(p **int32, value int32) {
		if *p == nil {
			*p = &value
		}
	}
	if e := p.Spec.Exempt; e != nil {
		or(&e.NominalConcurrencyShares, 0)
		or(&e.LendablePercent, 0)
	}
	l := p.Spec.Limited
	if l == nil {
		return
	}
	or(&l.NominalConcurrencyShares, 30)
	or(&l.LendablePercent, 0)
	if q := l.LimitResponse.Queuing; q != nil {
		orNumber(&q.HandSize, 8)
		orNumber(&q.Queues, 64)
		orNumber(&q.QueueLengthLimit, 50)
	}
}

func orNumber(n *int32, value int32) {
	if *n == 0 {
		*n = value
	}
}
