// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/fairlead/fairlead/dataplane/loader"
	"github.com/fairlead/fairlead/dataplane/podnet/nettest"
)

func TestDeviceOfNewPods(t *testing.T) {
	ns := nettest.NewNS(t, "device")
	var kernel error
	ns.Do(func() { kernel = probeNetkit() })
	for _, c := range []struct {
		device  Device
		tcx     bool
		netkit  bool
		refused bool
	}{
		{DeviceVeth, true, false, false},
		{DeviceAuto, true, kernel == nil, false},
		{"", true, kernel == nil, false},
		{DeviceAuto, false, false, false},
		{DeviceNetkit, true, kernel == nil, kernel != nil},
		{"bridge", true, false, true},
	} {
		var got bool
		var err error
		ns.Do(func() { got, err = c.device.choose(c.tcx) })
		if got != c.netkit || (err != nil) != c.refused {
			t.Errorf("%q, tcx %t: netkit %t, %v; want %t, refused %t (the kernel: %v)", c.device, c.tcx, got, err, c.netkit, c.refused, kernel)
		}
		var old *loader.KernelError
		if c.device == DeviceNetkit && kernel != nil && (!errors.As(err, &old) || old.MinKernel == "") {
			t.Errorf("forced netkit: %v does not name a kernel", err)
		}
	}
	links, err := ns.Netlink(t).LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if isOurs(l) || l.Type() == (&netlink.Netkit{}).Type() {
			t.Errorf("the probe left %s", l.Attrs().Name)
		}
	}
}
