// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"

	"github.com/fairlead/fairlead/dataplane/kubelet/observed"
	"github.com/fairlead/fairlead/dataplane/kubelet/podworker"
)

// httpError is an answer that is not a success.
type httpError struct {
	code    int
	message string
}

func (e *httpError) Error() string { return e.message }

func fail(w http.ResponseWriter, err error) {
	var known *httpError
	if errors.As(err, &known) {
		http.Error(w, known.message, known.code)
		return
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// find returns the pod a request names.
func (s *server) find(r *http.Request) (podworker.View, error) {
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	for _, view := range s.Views() {
		if view.Pod.Namespace == namespace && view.Pod.Name == name && (uid == "" || string(view.Pod.UID) == uid) {
			return view, nil
		}
	}
	return podworker.View{}, &httpError{http.StatusNotFound, fmt.Sprintf("pod %s/%s does not exist on this node", namespace, name)}
}

// logs answers with a container's log, in the form of the API's pods/log.
func (s *server) logs(w http.ResponseWriter, r *http.Request) {
	view, err := s.find(r)
	if err != nil {
		fail(w, err)
		return
	}
	options, err := logOptions(r.URL.Query())
	if err != nil {
		fail(w, err)
		return
	}
	name := r.PathValue("container")
	container := view.Observed.Newest(name)
	if options.Previous {
		// The previous instance is the last that ended, unless the newest has ended itself and waits to start again.
		if container != nil && container.State != observed.Exited || view.Observed.Previous(name) != nil {
			container = view.Observed.Previous(name)
		}
		if container == nil || container.State != observed.Exited {
			fail(w, &httpError{http.StatusBadRequest, fmt.Sprintf("previous terminated container %q in pod %q not found", name, view.Pod.Name)})
			return
		}
	}
	if container == nil || container.LogPath == "" {
		reason := "ContainerCreating"
		for _, status := range append(view.Status.ContainerStatuses, view.Status.InitContainerStatuses...) {
			if status.Name == name && status.State.Waiting != nil {
				reason = status.State.Waiting.Reason
			}
		}
		fail(w, &httpError{http.StatusBadRequest, fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, view.Pod.Name, reason)})
		return
	}
	if _, err := os.Stat(container.LogPath); errors.Is(err, os.ErrNotExist) {
		fail(w, &httpError{http.StatusNotFound, fmt.Sprintf("log of container %q is gone", name)})
		return
	}
	stdout, stderr := io.Writer(flushing{w}), io.Writer(flushing{w})
	if options.Stream != nil {
		switch *options.Stream {
		case v1.LogStreamStdout:
			stderr = nil
		case v1.LogStreamStderr:
			stdout = nil
		}
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	if flusher, ok := w.(http.Flusher); ok {
		flusher.Flush()
	}
	id := container.ID
	if err := logs.ReadLogs(r.Context(), container.LogPath, id, readOptions(options, time.Now()), s.Runtime, stdout, stderr); err != nil && r.Context().Err() == nil {
		fmt.Fprintf(w, "failed to read the log: %v\n", err)
	}
}

// readOptions are the API's options for the reader of CRI logs.
func readOptions(options *v1.PodLogOptions, now time.Time) *logs.LogOptions {
	out := &logs.LogOptions{TailLines: options.TailLines, LimitBytes: options.LimitBytes, Follow: options.Follow, Timestamp: options.Timestamps}
	switch {
	case options.SinceSeconds != nil:
		out.Since = now.Add(-time.Duration(*options.SinceSeconds) * time.Second)
	case options.SinceTime != nil:
		out.Since = options.SinceTime.Time
	}
	return out
}

// flushing sends each write at once: whoever follows a log wants to see it.
type flushing struct{ w http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if flusher, ok := f.w.(http.Flusher); ok {
		flusher.Flush()
	}
	return n, err
}

func logOptions(query url.Values) (*v1.PodLogOptions, error) {
	options := &v1.PodLogOptions{}
	flags := map[string]*bool{"follow": &options.Follow, "previous": &options.Previous, "timestamps": &options.Timestamps}
	for name, field := range flags {
		if text := query.Get(name); text != "" {
			value, err := strconv.ParseBool(text)
			if err != nil {
				return nil, &httpError{http.StatusBadRequest, name + " is not a boolean"}
			}
			*field = value
		}
	}
	numbers := map[string]**int64{"sinceSeconds": &options.SinceSeconds, "tailLines": &options.TailLines, "limitBytes": &options.LimitBytes}
	for name, field := range numbers {
		if text := query.Get(name); text != "" && text != "all" {
			value, err := strconv.ParseInt(text, 10, 64)
			if err != nil || value < 0 {
				return nil, &httpError{http.StatusBadRequest, name + " is not a number of at least 0"}
			}
			*field = &value
		}
	}
	if text := query.Get("sinceTime"); text != "" {
		since, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, &httpError{http.StatusBadRequest, "sinceTime is not a time of RFC 3339"}
		}
		t := metav1.NewTime(since)
		options.SinceTime = &t
	}
	if text := query.Get("stream"); text != "" {
		options.Stream = &text
	}
	return options, nil
}

// stream asks the runtime for a streaming address and passes the connection on to it.
func (s *server) stream(verb string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		address, err := s.streamAddress(verb, r)
		if err != nil {
			fail(w, err)
			return
		}
		target, err := url.Parse(address)
		if err != nil {
			fail(w, fmt.Errorf("streaming address of the runtime: %w", err))
			return
		}
		handler := proxy.NewUpgradeAwareHandler(target, nil, false, true, responder{})
		handler.UseRequestLocation = false
		handler.ServeHTTP(w, r)
	}
}

type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) { fail(w, err) }

func (s *server) streamAddress(verb string, r *http.Request) (string, error) {
	view, err := s.find(r)
	if err != nil {
		return "", err
	}
	query := r.URL.Query()
	if verb == "portForward" {
		sandbox := view.Observed.Ready()
		if sandbox == nil {
			return "", &httpError{http.StatusBadRequest, "pod is not running"}
		}
		request := &runtimeapi.PortForwardRequest{PodSandboxId: sandbox.ID}
		for _, text := range query["port"] {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return "", &httpError{http.StatusBadRequest, fmt.Sprintf("port %q is not a port", text)}
			}
			request.Port = append(request.Port, int32(port))
		}
		response, err := s.Runtime.PortForward(r.Context(), request)
		return response.GetUrl(), err
	}
	container, err := running(view, r.PathValue("container"))
	if err != nil {
		return "", err
	}
	is := func(names ...string) bool {
		for _, name := range names {
			if value := query.Get(name); value == "1" || value == "true" {
				return true
			}
		}
		return false
	}
	stdin, stdout, stderr, tty := is("input", "stdin"), is("output", "stdout"), is("error", "stderr"), is("tty")
	if tty {
		stderr = false
	}
	if verb == "attach" {
		response, err := s.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{ContainerId: container.ID, Stdin: stdin, Stdout: stdout, Stderr: stderr, Tty: tty})
		return response.GetUrl(), err
	}
	if len(query["command"]) == 0 {
		return "", &httpError{http.StatusBadRequest, "no command"}
	}
	response, err := s.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{ContainerId: container.ID, Cmd: query["command"], Stdin: stdin, Stdout: stdout, Stderr: stderr, Tty: tty})
	return response.GetUrl(), err
}

func running(view podworker.View, name string) (*observed.Container, error) {
	container := view.Observed.Newest(name)
	if container == nil {
		return nil, &httpError{http.StatusNotFound, fmt.Sprintf("container %q not found in pod %q", name, view.Pod.Name)}
	}
	if container.State != observed.Running {
		return nil, &httpError{http.StatusBadRequest, fmt.Sprintf("container %q is not running", name)}
	}
	return container, nil
}

// run executes a command and answers with its output.
func (s *server) run(w http.ResponseWriter, r *http.Request) {
	view, err := s.find(r)
	if err != nil {
		fail(w, err)
		return
	}
	container, err := running(view, r.PathValue("container"))
	if err != nil {
		fail(w, err)
		return
	}
	command := strings.Fields(r.URL.Query().Get("cmd"))
	if len(command) == 0 {
		fail(w, &httpError{http.StatusBadRequest, "no command"})
		return
	}
	const longest = 5 * time.Minute
	ctx, cancel := context.WithTimeout(r.Context(), longest)
	defer cancel()
	stdout, stderr, err := s.Runtime.ExecSync(ctx, container.ID, command, longest)
	if err != nil {
		fail(w, err)
		return
	}
	w.Write(append(stdout, stderr...))
}
