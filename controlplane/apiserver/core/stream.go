// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/fairlead/fairlead/controlplane/apiserver/registry"
)

// onNode returns the URL on the kubelet of the node that pod runs on.
func onNode(ctx context.Context, k *kubelet, pod *corev1.Pod, path string, query url.Values) (*url.URL, error) {
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	address, err := k.address(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: address, Path: path, RawQuery: query.Encode()}, nil
}

const defaultContainerAnnotation = "kubectl.kubernetes.io/default-container"

// container returns the container that a request means: the one it names, the annotated default, or the only one.
func container(pod *corev1.Pod, name string) (string, error) {
	var names, initNames []string
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		initNames = append(initNames, c.Name)
	}
	all := slices.Concat(names, initNames)
	for _, c := range pod.Spec.EphemeralContainers {
		all = append(all, c.Name)
	}
	if name != "" {
		if !slices.Contains(all, name) {
			return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
		}
		return name, nil
	}
	if d := pod.Annotations[defaultContainerAnnotation]; d != "" && slices.Contains(all, d) {
		return d, nil
	}
	if len(names) == 1 {
		return names[0], nil
	}
	if len(names) == 0 {
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	}
	message := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(names, " "))
	if len(initNames) > 0 {
		message += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(initNames, " "))
	}
	return "", apierrors.NewBadRequest(message)
}

// podLog is pods/log.
type podLog struct {
	pods    *registry.Main
	kubelet *kubelet
}

var (
	_ rest.GetterWithOptions = &podLog{}
	_ rest.StorageMetadata   = &podLog{}
)

func (l *podLog) New() runtime.Object               { return &corev1.Pod{} }
func (l *podLog) Destroy()                          {}
func (l *podLog) ProducesMIMETypes(string) []string { return []string{"text/plain"} }
func (l *podLog) ProducesObject(string) any         { return "" }
func (l *podLog) OverrideMetricsVerb(v string) string {
	if v == "GET" {
		return "CONNECT"
	}
	return v
}

func (l *podLog) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

func (l *podLog) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	o, ok := options.(*corev1.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	if errs := validateLogOptions(o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, name, errs)
	}
	pod, err := getPod(ctx, l.pods, name)
	if err != nil {
		return nil, err
	}
	c, err := container(pod, o.Container)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return &genericrest.LocationStreamer{}, nil // not scheduled: no log yet
	}
	location, err := onNode(ctx, l.kubelet, pod, "/containerLogs/"+pod.Namespace+"/"+pod.Name+"/"+c, logQuery(o))
	if err != nil {
		return nil, err
	}
	return &genericrest.LocationStreamer{
		Location: location, Transport: l.kubelet.secure, ContentType: "text/plain", Flush: o.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(corev1.Resource("pods/log"), name), RedirectChecker: genericrest.PreventRedirects,
	}, nil
}

func validateLogOptions(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	if s := o.Stream; s != nil {
		switch *s {
		case corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr:
			if *s != corev1.LogStreamAll && o.TailLines != nil {
				errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
			}
		default:
			errs = append(errs, field.NotSupported(field.NewPath("stream"), *s, []string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}))
		}
	}
	return errs
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	set := func(name string, wanted bool) {
		if wanted {
			q.Set(name, "true")
		}
	}
	set("follow", o.Follow)
	set("previous", o.Previous)
	set("timestamps", o.Timestamps)
	number := func(name string, n *int64) {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	number("sinceSeconds", o.SinceSeconds)
	number("tailLines", o.TailLines)
	number("limitBytes", o.LimitBytes)
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.Stream != nil && *o.Stream != corev1.LogStreamAll {
		q.Set("stream", *o.Stream)
	}
	return q
}

// podExec is pods/exec.
type podExec struct {
	pods    *registry.Main
	kubelet *kubelet
}

var _ rest.Connecter = &podExec{}

func (e *podExec) New() runtime.Object      { return &corev1.PodExecOptions{} }
func (e *podExec) Destroy()                 {}
func (e *podExec) ConnectMethods() []string { return []string{"GET", "POST"} }
func (e *podExec) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodExecOptions{}, false, ""
}

func (e *podExec) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o := options.(*corev1.PodExecOptions)
	pod, err := getPod(ctx, e.pods, name)
	if err != nil {
		return nil, err
	}
	q := streams(o.Stdin, o.Stdout, o.Stderr, o.TTY)
	for _, c := range o.Command {
		q.Add(corev1.ExecCommandParam, c)
	}
	return interact(ctx, e.kubelet, pod, "/exec/", o.Container, q, proxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}, responder)
}

// podAttach is pods/attach.
type podAttach struct {
	pods    *registry.Main
	kubelet *kubelet
}

var _ rest.Connecter = &podAttach{}

func (a *podAttach) New() runtime.Object      { return &corev1.PodAttachOptions{} }
func (a *podAttach) Destroy()                 {}
func (a *podAttach) ConnectMethods() []string { return []string{"GET", "POST"} }
func (a *podAttach) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodAttachOptions{}, false, ""
}

func (a *podAttach) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o := options.(*corev1.PodAttachOptions)
	pod, err := getPod(ctx, a.pods, name)
	if err != nil {
		return nil, err
	}
	q := streams(o.Stdin, o.Stdout, o.Stderr, o.TTY)
	return interact(ctx, a.kubelet, pod, "/attach/", o.Container, q, proxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}, responder)
}

func streams(stdin, stdout, stderr, tty bool) url.Values {
	q := url.Values{}
	for name, wanted := range map[string]bool{
		corev1.ExecStdinParam: stdin, corev1.ExecStdoutParam: stdout, corev1.ExecStderrParam: stderr, corev1.ExecTTYParam: tty,
	} {
		if wanted {
			q.Set(name, "1")
		}
	}
	return q
}

// interact connects the client's streams with those of a container. WebSocket clients are translated to SPDY, which every kubelet speaks.
func interact(ctx context.Context, k *kubelet, pod *corev1.Pod, verb, name string, q url.Values, o proxy.Options, responder rest.Responder) (http.Handler, error) {
	c, err := container(pod, name)
	if err != nil {
		return nil, err
	}
	location, err := onNode(ctx, k, pod, verb+pod.Namespace+"/"+pod.Name+"/"+c, q)
	if err != nil {
		return nil, err
	}
	direct := passThrough(location, k.secure, false, true, responder)
	translated := proxy.NewStreamTranslatorHandler(location, k.secure, 0, o)
	return proxy.NewTranslatingHandler(direct, translated, wsstream.IsWebSocketRequestWithStreamCloseProtocol), nil
}

// podPortForward is pods/portforward.
type podPortForward struct {
	pods    *registry.Main
	kubelet *kubelet
}

var _ rest.Connecter = &podPortForward{}

func (p *podPortForward) New() runtime.Object      { return &corev1.PodPortForwardOptions{} }
func (p *podPortForward) Destroy()                 {}
func (p *podPortForward) ConnectMethods() []string { return []string{"GET", "POST"} }
func (p *podPortForward) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodPortForwardOptions{}, false, ""
}

func (p *podPortForward) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	pod, err := getPod(ctx, p.pods, name)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	if ports := options.(*corev1.PodPortForwardOptions).Ports; len(ports) > 0 {
		texts := make([]string, len(ports))
		for i, port := range ports {
			texts[i] = strconv.Itoa(int(port))
		}
		q.Set("port", strings.Join(texts, ","))
	}
	location, err := onNode(ctx, p.kubelet, pod, "/portForward/"+pod.Namespace+"/"+pod.Name, q)
	if err != nil {
		return nil, err
	}
	direct := passThrough(location, p.kubelet.secure, false, true, responder)
	return proxy.NewTranslatingHandler(direct, proxy.NewTunnelingHandler(direct), wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
}

// podProxy is pods/proxy: HTTP to the pod's own address, "name", "name:port" or "https:name:port".
type podProxy struct {
	pods    *registry.Main
	kubelet *kubelet
}

var _ rest.Connecter = &podProxy{}

func (p *podProxy) New() runtime.Object      { return &corev1.PodProxyOptions{} }
func (p *podProxy) Destroy()                 {}
func (p *podProxy) ConnectMethods() []string { return proxyMethods }
func (p *podProxy) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodProxyOptions{}, true, "path"
}

func (p *podProxy) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
	}
	pod, err := getPod(ctx, p.pods, name)
	if err != nil {
		return nil, err
	}
	if port == "" {
		for _, c := range pod.Spec.Containers {
			if len(c.Ports) > 0 {
				port = strconv.Itoa(int(c.Ports[0].ContainerPort))
				break
			}
		}
	}
	ip := net.ParseIP(pod.Status.PodIP)
	switch {
	case ip == nil:
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s has no address yet", pod.Name))
	case ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified():
		return nil, apierrors.NewBadRequest(fmt.Sprintf("address not allowed: %s", ip))
	}
	if scheme == "" {
		scheme = "http"
	}
	location := &url.URL{Scheme: scheme, Host: pod.Status.PodIP}
	if port != "" {
		location.Host = net.JoinHostPort(pod.Status.PodIP, port)
	} else if ip.To4() == nil {
		location.Host = "[" + pod.Status.PodIP + "]"
	}
	location.Path = utilnet.JoinPreservingTrailingSlash("", options.(*corev1.PodProxyOptions).Path)
	return passThrough(location, p.kubelet.plain, true, false, responder), nil
}
