// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

// A token is kept until 80% of its life, then there is another; while the server gives none, the old one is good until its end.
func TestTokenIsRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, issued, down := fake.NewClientset(), 0, false
		client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if down {
				return true, nil, errors.New("down")
			}
			issued++
			request := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest)
			request.Status = authenticationv1.TokenRequestStatus{Token: fmt.Sprint("token ", issued),
				ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Duration(*request.Spec.ExpirationSeconds) * time.Second))}
			return true, request, nil
		})
		keeper := newTokens(client)
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}}
		want := func(token string) {
			t.Helper()
			if got, err := keeper.get(t.Context(), pod, "vault", ptr.To[int64](600)); got != token || err != nil {
				t.Errorf("%q %v, want %q", got, err, token)
			}
		}
		want("token 1")
		time.Sleep(479 * time.Second) // of virtual time
		want("token 1")
		time.Sleep(2 * time.Second)
		want("token 2")
		down = true
		time.Sleep(599 * time.Second)
		want("token 2")
		time.Sleep(2 * time.Second)
		if got, err := keeper.get(t.Context(), pod, "vault", ptr.To[int64](600)); err == nil {
			t.Errorf("%q after its end", got)
		}
		down = false
		want("token 3")
	})
}
