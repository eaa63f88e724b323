// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead/fairlead/controlplane/auth/tokens"
)

func TestTheJoinTokenWaitsForAStoreWithoutALeader(t *testing.T) {
	busy := apierrors.NewInternalError(errors.New("etcdserver: request timed out"))
	for what, c := range map[string]struct {
		answers []error // to one request each; the last one to all that follow
		asked   int     // at least this often, and exactly when it is under ten
		text    string
		fails   bool
	}{
		"a store that answers":          {[]error{nil}, 1, "abcdef.0123456789abcdef", false},
		"a store that recovers":         {[]error{busy, busy, nil}, 3, "abcdef.0123456789abcdef", false},
		"a store that does not recover": {[]error{busy}, 50, "abcdef.0123456789abcdef", true},
		"a refusal":                     {[]error{apierrors.NewBadRequest("no")}, 1, "abcdef.0123456789abcdef", true},
		"a token of another form":       {[]error{nil}, 0, "abcdef.short", true},
		"no token":                      {[]error{nil}, 0, "", false},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset()
				asked := 0
				client.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
					err := c.answers[min(asked, len(c.answers)-1)]
					asked++
					return err != nil, nil, err
				})
				err := makeToken(t.Context(), client, c.text, tokens.Bootstrap{})
				if (err != nil) != c.fails || asked < c.asked || asked > c.asked && c.asked < 10 {
					t.Errorf("asked %d times, %v; want %d, fails %t", asked, err, c.asked, c.fails)
				}
			})
		})
	}
}
