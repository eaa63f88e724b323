// SPDX-License-Identifier: Apache-2.0

package podworker

import (
	"context"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	internalapi "k8s.io/cri-api/pkg/apis"

	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/sync"
)

// remover is a runtime that can only remove containers.
type remover struct{ internalapi.RuntimeService }

func (remover) RemoveContainer(context.Context, string) error { return nil }

// TestALookFromBeforeAnActionsEndPlansNothing: by such a look a container whose start has just ended would not run yet, and be started a second time.
func TestALookFromBeforeAnActionsEndPlansNothing(t *testing.T) {
	w := newWorker(&Services{Runtime: remover{}}, &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}})
	looked := w.actedSoFar()
	w.mu.Lock()
	w.launch(t.Context(), sync.Action{Verb: sync.RemoveContainer, ID: "old"})
	w.mu.Unlock()
	w.actions.Wait()

	done, again := w.step(t.Context(), &observed.Pod{UID: "u"}, looked)
	if done || again.IsZero() || time.Until(again) > 0 {
		t.Errorf("done %t, again at %s; want another look at once", done, again)
	}
	if w.seen != nil || len(w.busy) > 0 {
		t.Errorf("the look was used: seen %v, under way %v", w.seen, w.busy)
	}
}
