// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"reflect"

	"github.com/cilium/statedb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead/fairlead/dataplane/tables"
)

type nodeQuery = statedb.Query[*tables.Node]

// store is a reflector's destination that converts objects and upserts rows. A row that equals the one there is not written again: most updates of a Node
// (heartbeats) or Service change nothing that the dataplane looks at.
type store[O metav1.Object, R any] struct {
	tables  *tables.Tables
	table   statedb.RWTable[R]
	name    string
	convert func(O) (row R, ok bool) // ok false: no row for this object
	key     func(tables.Name) statedb.Query[R]
	nameOf  func(R) tables.Name
}

func (s *store[O, R]) Add(obj any) error    { return s.upsert(obj) }
func (s *store[O, R]) Update(obj any) error { return s.upsert(obj) }
func (s *store[O, R]) Resync() error        { return nil }

func (s *store[O, R]) upsert(obj any) error {
	o, ok := obj.(O)
	if !ok {
		return fmt.Errorf("watch of %s delivered a %T", s.name, obj)
	}
	row, ok := s.convert(o)
	if !ok {
		return s.Delete(obj)
	}
	w := s.tables.DB.WriteTxn(s.table)
	defer w.Abort()
	changed, err := s.put(w, row)
	if err == nil && changed {
		w.Commit()
	}
	return err
}

// put inserts row unless an equal one is there.
func (s *store[O, R]) put(w statedb.WriteTxn, row R) (changed bool, err error) {
	if old, _, ok := s.table.Get(w, s.key(s.nameOf(row))); ok && reflect.DeepEqual(old, row) {
		return false, nil
	}
	_, _, err = s.table.Insert(w, row)
	return true, err
}

// Delete removes the object's row. Removing an absent one returns nil.
func (s *store[O, R]) Delete(obj any) error {
	o, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("watch of %s delivered a %T", s.name, obj)
	}
	w := s.tables.DB.WriteTxn(s.table)
	defer w.Abort()
	old, _, ok := s.table.Get(w, s.key(tables.Name{Namespace: o.GetNamespace(), Name: o.GetName()}))
	if !ok {
		return nil
	}
	if _, _, err := s.table.Delete(w, old); err != nil {
		return err
	}
	w.Commit()
	return nil
}

// Replace makes the table hold exactly the list, in one transaction, and marks it initialized.
func (s *store[O, R]) Replace(list []any, _ string) error {
	w := s.tables.DB.WriteTxn(s.table)
	defer w.Abort()
	keep := make(map[tables.Name]bool, len(list))
	for _, obj := range list {
		o, ok := obj.(O)
		if !ok {
			return fmt.Errorf("list of %s delivered a %T", s.name, obj)
		}
		row, ok := s.convert(o)
		if !ok {
			continue
		}
		keep[s.nameOf(row)] = true
		if _, err := s.put(w, row); err != nil {
			return err
		}
	}
	var gone []R
	for row := range s.table.All(w) {
		if !keep[s.nameOf(row)] {
			gone = append(gone, row)
		}
	}
	for _, row := range gone {
		if _, _, err := s.table.Delete(w, row); err != nil {
			return err
		}
	}
	if err := s.tables.Filled(w, s.name, Filler); err != nil {
		return err
	}
	w.Commit()
	return nil
}
