// SPDX-License-Identifier: Apache-2.0

package podcertificatecleaner_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/podcertificatecleaner"
)

func TestARequestGoesAfterAQuarterOfAnHourWhateverBecameOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		request := func(name, chain string) runtime.Object {
			return &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Status: certificatesv1.PodCertificateRequestStatus{CertificateChain: chain}}
		}
		w := controllertest.NewWorld(t, []runtime.Object{request("issued", "pem"), request("waiting", "")}, podcertificatecleaner.New)
		defer w.Close()
		left := func() int {
			return len(controllertest.Must(w.Client.CertificatesV1().PodCertificateRequests("ns").List(context.Background(), metav1.ListOptions{})).Items)
		}
		if w.After(14 * time.Minute); left() != 2 {
			t.Errorf("%d are left after 14 minutes, want both", left())
		}
		if w.After(2 * time.Minute); left() != 0 {
			t.Errorf("%d are left after 16 minutes", left())
		}
	})
}
