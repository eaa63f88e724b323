// SPDX-License-Identifier: Apache-2.0

// Package storagemigration writes every object of a resource anew, so that the store holds it in the version, and encrypted with the key, that are
// configured now.
//
// It watches StorageVersionMigrations and writes their status. The objects are listed in pages and each gets a patch that changes nothing, on the condition that nobody has
// written it since: the API server reads it, sees that its stored form is not the present one, and stores it again. What somebody else wrote in between is in
// its new form already.
package storagemigration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	migrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	migrationlisters "k8s.io/client-go/listers/storagemigration/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead/fairlead/controlplane/controllers/controller"
)

const (
	page = 500 // objects of one list
	// patience is how long a resource that nobody serves is waited for: its definition may have been created a moment ago.
	patience = time.Minute
)

type loop struct {
	c          *controller.Context
	queue      *controller.Queue
	migrations migrationlisters.StorageVersionMigrationLister
	synced     cache.InformerSynced
}

// New returns the controller.
func New(c *controller.Context) controller.Controller {
	c = c.As("storage-version-migrator-controller", "storage-version-migrator-controller")
	migrations := c.Informers.Storagemigration().V1().StorageVersionMigrations()
	l := &loop{c: c, migrations: migrations.Lister(), synced: migrations.Informer().HasSynced}
	l.queue = c.Queue("storagemigration", l.sync)
	controller.On(migrations.Informer(), l.queue.Enqueue)
	return l
}

// Run uses one worker: the API server has others to serve than migrations.
func (l *loop) Run(ctx context.Context) error {
	return l.queue.Run(ctx, 1, l.synced)
}

// sync runs one migration to its end. An error that may pass makes the whole start over, which costs reads only: what is migrated is not written again.
func (l *loop) sync(ctx context.Context, name string) error {
	m, err := l.migrations.Get(name)
	if err != nil || ended(m) {
		return controller.IgnoreNotFound(err)
	}
	gr := schema.GroupResource(m.Spec.Resource)
	gvr, err := l.c.Mapper.ResourceFor(gr.WithVersion(""))
	if meta.IsNoMatchError(err) {
		if left := m.CreationTimestamp.Add(patience).Sub(l.c.Clock.Now()); left > 0 {
			l.queue.AddAfter(name, min(left, 10*time.Second))
			return nil
		}
		return l.end(ctx, m, migrationv1.MigrationFailed, "NotServed", fmt.Sprintf("The API server serves no resource %s.", gr))
	} else if err != nil {
		return err
	}
	if m, err = l.begin(ctx, m, gvr); err != nil {
		return l.settle(ctx, m, err)
	}
	return l.settle(ctx, m, l.migrate(ctx, gvr))
}

// begin notes that the migration runs and from which version of the whole it started, once.
func (l *loop) begin(ctx context.Context, m *migrationv1.StorageVersionMigration, gvr schema.GroupVersionResource) (*migrationv1.StorageVersionMigration, error) {
	if m.Status.ResourceVersion != "" && meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationRunning)) {
		return m, nil
	}
	list, err := l.c.Metadata.Resource(gvr).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return m, err
	}
	running := m.DeepCopy()
	if running.Status.ResourceVersion == "" {
		running.Status.ResourceVersion = list.ResourceVersion
	}
	meta.SetStatusCondition(&running.Status.Conditions, metav1.Condition{
		Type: string(migrationv1.MigrationRunning), Status: metav1.ConditionTrue, Reason: "Started", Message: "Objects are being written anew.",
	})
	if running, err = l.c.Client.StoragemigrationV1().StorageVersionMigrations().UpdateStatus(ctx, running, metav1.UpdateOptions{}); err != nil {
		return m, err
	}
	return running, nil
}

// migrate writes all objects of a resource anew.
func (l *loop) migrate(ctx context.Context, gvr schema.GroupVersionResource) error {
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := l.c.Metadata.Resource(gvr).List(ctx, options)
		if err != nil {
			return fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
		}
		for i := range list.Items {
			if err := l.rewrite(ctx, gvr, &list.Items[i]); err != nil {
				return fmt.Errorf("%s %s: %w", gvr.GroupResource(), controller.Key(&list.Items[i]), err)
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return nil
		}
	}
}

func (l *loop) rewrite(ctx context.Context, gvr schema.GroupVersionResource, obj *metav1.PartialObjectMetadata) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": obj.UID, "resourceVersion": obj.ResourceVersion}})
	if err != nil {
		return err
	}
	api := l.c.Metadata.Resource(gvr)
	if obj.Namespace == "" {
		_, err = api.Patch(ctx, obj.Name, types.MergePatchType, body, metav1.PatchOptions{})
	} else {
		_, err = api.Namespace(obj.Namespace).Patch(ctx, obj.Name, types.MergePatchType, body, metav1.PatchOptions{})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or written by somebody: in the present form
	}
	return err
}

// settle ends a migration whose work returned err, or has it tried again.
func (l *loop) settle(ctx context.Context, m *migrationv1.StorageVersionMigration, err error) error {
	switch {
	case err == nil:
		return l.end(ctx, m, migrationv1.MigrationSucceeded, "AllWritten", "Every object is stored in the present form.")
	case ctx.Err() != nil || passes(err):
		return err
	}
	return l.end(ctx, m, migrationv1.MigrationFailed, "WriteRefused", err.Error())
}

// passes reports whether trying again can help. A refusal of an object (it no longer is valid, a webhook denies it) needs a person.
func passes(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true // the network
	}
	return apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsResourceExpired(err) || apierrors.IsConflict(err) || apierrors.IsUnauthorized(err)
}

func (l *loop) end(ctx context.Context, m *migrationv1.StorageVersionMigration, how migrationv1.MigrationConditionType, reason, message string) error {
	m = m.DeepCopy()
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{Type: string(migrationv1.MigrationRunning), Status: metav1.ConditionFalse, Reason: reason, Message: message})
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{Type: string(how), Status: metav1.ConditionTrue, Reason: reason, Message: message})
	_, err := l.c.Client.StoragemigrationV1().StorageVersionMigrations().UpdateStatus(ctx, m, metav1.UpdateOptions{})
	return controller.IgnoreNotFound(err)
}

func ended(m *migrationv1.StorageVersionMigration) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationSucceeded)) ||
		meta.IsStatusConditionTrue(m.Status.Conditions, string(migrationv1.MigrationFailed))
}
