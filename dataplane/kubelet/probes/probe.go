// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	maxBody   = 10 << 10
	userAgent = "kube-probe/1.37"
)

// Target is the container a handler acts on.
type Target struct {
	Pod         *v1.Pod
	Container   *v1.Container
	ContainerID string
	PodIP       string // the node's for a pod in the host's network
}

// Exec runs a command in a container and returns its output; a command that ran and failed is an *ExitError.
type Exec func(ctx context.Context, containerID string, command []string, timeout time.Duration) (output []byte, err error)

// ExitError is the end of a command that failed.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("command exited with code %d", e.Code) }

// ErrWarning says that a probe succeeded, in a way that its author should look at.
var ErrWarning = errors.New("probe succeeded with a warning")

// ErrTimeout says that a probe took longer than it may.
var ErrTimeout = errors.New("probe timed out")

// httpClient follows redirects within the host only: another host's answer says nothing about the container.
var httpClient = &http.Client{
	Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // a probe knows the address, not the name; nothing secret is sent
		DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
	},
	CheckRedirect: func(request *http.Request, via []*http.Request) error {
		if request.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
			return http.ErrUseLastResponse
		}
		return nil
	},
}

// Run performs one probe. A nil error is success, and so is ErrWarning; output is for people.
func Run(ctx context.Context, probe *v1.Probe, target Target, exec Exec) (output string, err error) {
	timeout := time.Duration(max(probe.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case probe.Exec != nil:
		data, err := exec(ctx, target.ContainerID, probe.Exec.Command, timeout)
		if len(data) > maxBody {
			data = data[:maxBody]
		}
		return string(data), err
	case probe.HTTPGet != nil:
		code, output, err := httpGet(ctx, probe.HTTPGet, target)
		if err == nil && code >= 300 {
			return "Probe terminated redirects, Response body: " + output, ErrWarning
		}
		return output, err
	case probe.TCPSocket != nil:
		port, err := Port(probe.TCPSocket.Port, target.Container)
		if err != nil {
			return "", err
		}
		host := probe.TCPSocket.Host
		if host == "" {
			host = target.PodIP
		}
		var dialer net.Dialer
		connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return err.Error(), err
		}
		connection.Close()
		return "", nil
	case probe.GRPC != nil:
		return checkGRPC(ctx, probe.GRPC, target)
	}
	return "", errors.New("probe has no handler")
}

// Port resolves a port by number or by the name of one of the container's ports.
func Port(port intstr.IntOrString, container *v1.Container) (int, error) {
	number := port.IntValue()
	if port.Type == intstr.String {
		number = 0
		for _, p := range container.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
		if number == 0 {
			number, _ = strconv.Atoi(port.StrVal)
		}
	}
	if number < 1 || number > 65535 {
		return 0, fmt.Errorf("port %q is neither a number nor a port of container %s", port.String(), container.Name)
	}
	return number, nil
}

// HTTPGet performs an HTTP action; a status of 2xx or 3xx is success.
func HTTPGet(ctx context.Context, action *v1.HTTPGetAction, target Target) (string, error) {
	_, output, err := httpGet(ctx, action, target)
	return output, err
}

func httpGet(ctx context.Context, action *v1.HTTPGetAction, target Target) (code int, output string, err error) {
	port, err := Port(action.Port, target.Container)
	if err != nil {
		return 0, "", err
	}
	host := action.Host
	if host == "" {
		host = target.PodIP
	}
	scheme := "http"
	if action.Scheme == v1.URISchemeHTTPS {
		scheme = "https"
	}
	address, err := url.Parse(action.Path)
	if err != nil {
		address = &url.URL{Path: action.Path}
	}
	address.Scheme, address.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("User-Agent", userAgent)
	request.Header.Set("Accept", "*/*")
	for _, header := range action.HTTPHeaders {
		switch {
		case http.CanonicalHeaderKey(header.Name) == "Host":
			request.Host = header.Value
		case http.CanonicalHeaderKey(header.Name) == "Accept" && header.Value == "":
			request.Header.Del("Accept")
		case request.Header.Get(header.Name) == userAgent || request.Header.Get(header.Name) == "*/*":
			request.Header.Set(header.Name, header.Value)
		default:
			request.Header.Add(header.Name, header.Value)
		}
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return 0, err.Error(), err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return 0, err.Error(), err
	}
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		message := fmt.Sprintf("HTTP probe failed with statuscode: %d", response.StatusCode)
		return response.StatusCode, message, errors.New(message)
	}
	return response.StatusCode, string(body), nil
}

func checkGRPC(ctx context.Context, action *v1.GRPCAction, target Target) (string, error) {
	address := net.JoinHostPort(target.PodIP, strconv.Itoa(int(action.Port)))
	client, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(userAgent))
	if err != nil {
		return err.Error(), err
	}
	defer client.Close()
	request := &grpc_health_v1.HealthCheckRequest{}
	if action.Service != nil {
		request.Service = *action.Service
	}
	response, err := grpc_health_v1.NewHealthClient(client).Check(metadata.NewOutgoingContext(ctx, nil), request)
	if err != nil {
		return err.Error(), err
	}
	if response.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		message := fmt.Sprintf("service unhealthy (responded with %q)", response.Status)
		return message, errors.New(message)
	}
	return "", nil
}
