// SPDX-License-Identifier: Apache-2.0

// Package images makes sure that a container's image is on the node: pull policies, credentials, parallel pulls and the growing
// delay after a failed one; and removes images nobody uses when the disk fills.
package images

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Reasons a container waits for its image, as users see them in its status.
const (
	ReasonPull      = "ErrImagePull"
	ReasonBackOff   = "ImagePullBackOff"
	ReasonNever     = "ErrImageNeverPull"
	ReasonName      = "InvalidImageName"
	ReasonInspect   = "ImageInspectError"
	initialBackoff  = 10 * time.Second
	maxBackoff      = 5 * time.Minute
	forgetBackoffIn = 10 * time.Minute
)

// Error is why an image is not there.
type Error struct {
	Reason string
	Retry  time.Time // when a pull makes sense again; zero: any time
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Event tells what is going on, for the pod's events.
type Event func(warning bool, reason, message string)

// Puller pulls images; concurrent pulls of one image with the same credentials are one. Safe for concurrent use.
type Puller struct {
	service internalapi.ImageManagerService
	slots   chan struct{}

	mu       sync.Mutex
	failures map[string]failure
	running  map[string]*pull
}

type failure struct {
	until time.Time
	delay time.Duration
	err   error
}

type pull struct {
	done chan struct{}
	err  error
}

// NewPuller returns a puller that pulls at most parallel images at a time.
func NewPuller(service internalapi.ImageManagerService, parallel int) *Puller {
	return &Puller{service: service, slots: make(chan struct{}, max(parallel, 1)), failures: map[string]failure{}, running: map[string]*pull{}}
}

// Ensure returns the image as the runtime has it, pulling it when the policy asks for that. The error is an *Error, or ctx's.
func (p *Puller) Ensure(ctx context.Context, name string, policy v1.PullPolicy, keys Keyring, sandbox *runtimeapi.PodSandboxConfig, event Event) (*runtimeapi.Image, error) {
	full, err := Normalize(name)
	if err != nil {
		event(true, "InspectFailed", fmt.Sprintf("Failed to apply default image tag %q: %v", name, err))
		return nil, &Error{Reason: ReasonName, Err: fmt.Errorf("failed to apply default image tag %q: %w", name, err)}
	}
	spec := &runtimeapi.ImageSpec{Image: full, UserSpecifiedImage: name}
	present, err := p.lookUp(ctx, spec)
	if err != nil {
		return nil, err
	}
	if policy == "" {
		policy = v1.PullIfNotPresent
	}
	if present != nil && policy != v1.PullAlways {
		event(false, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", name))
		return present, nil
	}
	if policy == v1.PullNever {
		event(true, ReasonNever, fmt.Sprintf("Container image %q is not present with pull policy of Never", name))
		return nil, &Error{Reason: ReasonNever, Err: fmt.Errorf("Container image %q is not present with pull policy of Never", name)}
	}
	if err := p.backingOff(full); err != nil {
		event(false, "BackOff", fmt.Sprintf("Back-off pulling image %q: %v", name, errors.Unwrap(err)))
		return nil, err
	}
	event(false, "Pulling", fmt.Sprintf("Pulling image %q", name))
	started := time.Now()
	if err := p.pull(ctx, spec, keys, sandbox); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		event(true, "Failed", fmt.Sprintf("Failed to pull image %q: %v", name, err))
		retry := p.failed(full, err)
		return nil, &Error{Reason: ReasonPull, Retry: retry, Err: err}
	}
	p.succeeded(full)
	present, err = p.lookUp(ctx, spec)
	if err != nil {
		return nil, err
	}
	if present == nil {
		return nil, &Error{Reason: ReasonInspect, Err: fmt.Errorf("image %q vanished after it was pulled", name)}
	}
	event(false, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v. Image size: %d bytes.", name, time.Since(started).Round(time.Millisecond), present.Size))
	return present, nil
}

func (p *Puller) lookUp(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	response, err := p.service.ImageStatus(ctx, spec, false)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &Error{Reason: ReasonInspect, Err: fmt.Errorf("failed to inspect image %q: %w", spec.Image, err)}
	}
	return response.GetImage(), nil
}

// pull joins a pull of the same image under way, or starts one.
func (p *Puller) pull(ctx context.Context, spec *runtimeapi.ImageSpec, keys Keyring, sandbox *runtimeapi.PodSandboxConfig) error {
	credentials := keys.For(spec.Image)
	id := spec.Image + "\x00" + fmt.Sprint(credentials)
	p.mu.Lock()
	running := p.running[id]
	if running == nil {
		running = &pull{done: make(chan struct{})}
		p.running[id] = running
		p.mu.Unlock()
		running.err = p.try(ctx, spec, credentials, sandbox)
		p.mu.Lock()
		delete(p.running, id)
		p.mu.Unlock()
		close(running.done)
		return running.err
	}
	p.mu.Unlock()
	select {
	case <-running.done:
		if errors.Is(running.err, context.Canceled) && ctx.Err() == nil { // the other pod went away
			return p.pull(ctx, spec, keys, sandbox)
		}
		return running.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// try pulls with each credential until one works, and without any when there is none.
func (p *Puller) try(ctx context.Context, spec *runtimeapi.ImageSpec, credentials []Credential, sandbox *runtimeapi.PodSandboxConfig) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if len(credentials) == 0 {
		_, err := p.service.PullImage(ctx, spec, nil, sandbox)
		return err
	}
	var problems []error
	for _, c := range credentials {
		_, err := p.service.PullImage(ctx, spec, c.auth(), sandbox)
		if err == nil {
			return nil
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func (p *Puller) backingOff(image string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f, ok := p.failures[image]; ok && time.Now().Before(f.until) {
		return &Error{Reason: ReasonBackOff, Retry: f.until, Err: fmt.Errorf("Back-off pulling image %q: %w", image, f.err)}
	}
	return nil
}

func (p *Puller) failed(image string, err error) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for name, f := range p.failures {
		if now.Sub(f.until) > forgetBackoffIn {
			delete(p.failures, name)
		}
	}
	f := p.failures[image]
	f.delay = min(max(2*f.delay, initialBackoff), maxBackoff)
	f.until, f.err = now.Add(f.delay), err
	p.failures[image] = f
	return f.until
}

func (p *Puller) succeeded(image string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.failures, image)
}

// Normalize returns a full reference: registry, repository, and tag or digest.
func Normalize(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", name, err)
	}
	if strings.Contains(name, "@") {
		return named.String(), nil
	}
	return reference.TagNameOnly(named).String(), nil
}
