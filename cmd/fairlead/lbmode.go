// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/fairlead/fairlead/dataplane/loadbalancer"
	"github.com/fairlead/fairlead/dataplane/network"
)

// lbOptions are the flags about clients outside whose backend runs on another node than the one they asked.
type lbOptions struct {
	mode, dispatch string
}

func (o *lbOptions) register(f *pflag.FlagSet) {
	f.StringVar(&o.mode, "lb-mode", string(loadbalancer.SNAT), "how a backend on another node answers clients outside: snat (through this node), dsr (directly), hybrid (TCP directly)")
	f.StringVar(&o.dispatch, "dsr-dispatch", string(loadbalancer.DispatchIPIP), "how packets get to a backend that answers directly: ipip (in another IP header), option (with an IP option)")
}

func (o *lbOptions) apply(cfg *network.Config) error {
	cfg.LBMode, cfg.LBDispatch = loadbalancer.Mode(o.mode), loadbalancer.Dispatch(o.dispatch)
	switch cfg.LBMode {
	case loadbalancer.SNAT, loadbalancer.DSR, loadbalancer.Hybrid:
	default:
		return fmt.Errorf("--lb-mode %q: want snat, dsr or hybrid", o.mode)
	}
	switch cfg.LBDispatch {
	case loadbalancer.DispatchIPIP, loadbalancer.DispatchOption:
		return nil
	}
	return fmt.Errorf("--dsr-dispatch %q: want ipip or option", o.dispatch)
}
