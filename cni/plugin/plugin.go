// SPDX-License-Identifier: Apache-2.0

// Package plugin is the logic of the CNI executable: it reads what the runtime says (environment, stdin), asks the node agent over its socket (package wire)
// and prints the answer in the version the runtime spoke. It keeps no state and touches no network: the agent does. When the agent is down, ADD, CHECK and GC fail with
// code 11 (try again later), STATUS with code 50, and DEL is queued on disk (package queue) and succeeds.
package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/fairlead/fairlead/cni/queue"
	"github.com/fairlead/fairlead/cni/wire"
)

// Versions are the specification versions the plugin speaks.
var Versions = version.PluginSupports("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

// How long the plugin waits for the agent. A runtime's own limit is minutes; an agent that is alive answers in milliseconds.
const (
	addTimeout = 60 * time.Second
	delTimeout = 30 * time.Second
)

// Funcs are the verbs for skel.
func Funcs() skel.CNIFuncs {
	return skel.CNIFuncs{Add: add, Del: del, Check: check, Status: status, GC: gc}
}

func add(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	req, err := request(wire.Add, args, c)
	if err != nil {
		return err
	}
	netns, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer netns.Close()
	resp, err := call(c, req, netns, addTimeout)
	if err != nil {
		return err
	}
	result := new(types100.Result)
	if err := json.Unmarshal(resp.Result, result); err != nil {
		return types.NewError(types.ErrDecodingFailure, "node agent's answer is no result", err.Error())
	}
	v := c.CNIVersion
	if v == "" {
		v = "0.1.0"
	}
	return types.PrintResult(result, v)
}

func check(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if c.RawPrevResult == nil {
		return badConfig("CHECK needs prevResult")
	}
	req, err := request(wire.Check, args, c)
	if err != nil {
		return err
	}
	netns, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer netns.Close()
	_, err = call(c, req, netns, delTimeout)
	return err
}

// del succeeds when the attachment is gone, never was, or its deletion is on disk. The namespace may be gone too, so a path that cannot be opened is no error.
func del(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	req, err := request(wire.Del, args, c)
	if err != nil {
		req = &wire.Request{Command: wire.Del, Network: c.Name, Attachment: wire.Attachment{ContainerID: args.ContainerID, IfName: args.IfName}}
	}
	netns, err := openNetns(args.Netns)
	if err != nil {
		netns = nil
	} else {
		defer netns.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), delTimeout)
	defer cancel()
	resp, err := wire.Call(ctx, c.Socket, req, fd(netns))
	if err == nil {
		return answer(resp)
	}
	if !errors.Is(err, wire.ErrAgentDown) {
		return err
	}
	// Nobody answered. Under the queue's lock the agent cannot come up unseen: try it once more, then leave a note.
	ctx, cancel = context.WithTimeout(context.Background(), delTimeout)
	defer cancel()
	q := queue.Dir(c.Queue)
	lock, lerr := q.Lock(ctx, false)
	if lerr != nil {
		return types.NewError(types.ErrTryAgainLater, "node agent is down and the deletion could not be queued", lerr.Error())
	}
	defer lock.Close()
	if resp, err := wire.Call(ctx, c.Socket, req, fd(netns)); err == nil {
		return answer(resp)
	}
	if err := q.Put(queue.Entry{ContainerID: args.ContainerID, IfName: args.IfName, Network: c.Name, Time: time.Now().UTC()}); err != nil {
		return types.NewError(types.ErrTryAgainLater, "node agent is down and the deletion could not be queued", err.Error())
	}
	return nil
}

func status(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	_, err = call(c, &wire.Request{Command: wire.Status, Network: c.Name}, nil, delTimeout)
	return err
}

func gc(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	req := &wire.Request{Command: wire.GC, Network: c.Name}
	for _, a := range c.ValidAttachments {
		req.Valid = append(req.Valid, wire.Attachment{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	_, err = call(c, req, nil, addTimeout)
	return err
}

// call asks the agent and turns its silence into the code the specification has for the verb.
func call(c *config, req *wire.Request, netns *os.File, timeout time.Duration) (*wire.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	resp, err := wire.Call(ctx, c.Socket, req, fd(netns))
	if errors.Is(err, wire.ErrAgentDown) {
		code := types.ErrTryAgainLater
		if req.Command == wire.Status {
			code = types.ErrPluginNotAvailable
		}
		return nil, types.NewError(code, "the fairlead node agent is not running or not ready on "+c.Socket, err.Error())
	}
	if err != nil {
		return nil, badConfig("%v", err)
	}
	return resp, answer(resp)
}

func answer(resp *wire.Response) error {
	if resp.Error != nil {
		return resp.Error
	}
	return nil
}

func openNetns(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetNS, "cannot open the container's network namespace", err.Error())
	}
	return f, nil
}

func fd(f *os.File) int {
	if f == nil {
		return -1
	}
	return int(f.Fd())
}
