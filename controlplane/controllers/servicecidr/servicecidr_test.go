// SPDX-License-Identifier: Apache-2.0

package servicecidr_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead/fairlead/controlplane/controllers/controllertest"
	"github.com/fairlead/fairlead/controlplane/controllers/servicecidr"
)

var ctx = context.Background()

func cidr(name string, cidrs ...string) runtime.Object {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
}

func address(ip string) runtime.Object {
	return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: ip}}
}

func TestADeletedRangeStaysWhileAnAddressNeedsIt(t *testing.T) {
	for _, test := range []struct {
		name  string
		objs  []runtime.Object
		stays bool
	}{
		{"no address", nil, false},
		{"an address in it", []runtime.Object{address("10.1.2.3")}, true},
		{"an IPv6 address in it", []runtime.Object{address("fd00:1::5")}, true},
		{"an address of another range", []runtime.Object{cidr("other", "10.2.0.0/16"), address("10.2.0.1")}, false},
		{"an address that another range covers too", []runtime.Object{cidr("larger", "10.0.0.0/8"), address("10.1.2.3")}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := controllertest.NewWorld(t, append(test.objs, cidr("r", "10.1.0.0/16", "fd00:1::/112")), servicecidr.New)
				defer w.Close()
				api := w.Client.NetworkingV1().ServiceCIDRs()
				if r := controllertest.Must(api.Get(ctx, "r", metav1.GetOptions{})); !meta.IsStatusConditionTrue(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
					t.Fatalf("a new range is not Ready: %+v", r.Status)
				}
				w.Check(api.Delete(ctx, "r", metav1.DeleteOptions{}))
				w.After(5 * time.Second)
				r, err := api.Get(ctx, "r", metav1.GetOptions{})
				if err != nil {
					t.Fatalf("gone before the other API servers can have noticed: %v", err)
				}
				if c := meta.FindStatusCondition(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady); c.Status != metav1.ConditionFalse || c.Reason != networkingv1.ServiceCIDRReasonTerminating {
					t.Errorf("condition %+v", c)
				}
				w.After(time.Hour)
				_, err = api.Get(ctx, "r", metav1.GetOptions{})
				if (err == nil) != test.stays {
					t.Fatalf("there: %v, want %v", err == nil, test.stays)
				}
				if !test.stays {
					return
				}
				if n := w.Writes("update servicecidrs"); n > 5 {
					t.Errorf("%d writes in an hour of waiting", n)
				}
				for _, a := range controllertest.Must(w.Client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{})).Items {
					w.Check(w.Client.NetworkingV1().IPAddresses().Delete(ctx, a.Name, metav1.DeleteOptions{}))
				}
				w.After(time.Second)
				if _, err = api.Get(ctx, "r", metav1.GetOptions{}); err == nil {
					t.Error("the last address went and the range is still there")
				}
			})
		})
	}
}
