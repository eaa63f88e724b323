// SPDX-License-Identifier: Apache-2.0

// Command sample is the program of the sandbox's sample application: a web server that says which pod answered, a load
// generator, and an extension of the API that the cluster calls back.
//
//	sample serve --listen :8080 --drain 2s
//	sample load --url http://web/ --rate 100 --duration 10s
//	sample extend --listen :8443
//	sample stop
//	sample read FILE
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fairlead/fairlead/hack/load"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sample:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want a verb: serve, load, extend, stop or read")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch args[0] {
	case "serve":
		return serve(ctx, args[1:])
	case "load":
		return generate(ctx, args[1:])
	case "extend":
		return extend(ctx, args[1:])
	case "stop": // a load that is a container's first process ends early and prints what it saw
		return syscall.Kill(1, syscall.SIGTERM)
	case "read": // an image without a shell has no cat
		if len(args) != 2 {
			return errors.New("read: want one file")
		}
		b, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(b)
		return err
	}
	return fmt.Errorf("unknown verb %q: want serve, load, extend, stop or read", args[0])
}

// serve answers every request with the host's name. After SIGTERM it goes on serving for the drain time, because nodes learn that this endpoint
// leaves a little later than the pod does.
func serve(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen := fs.String("listen", ":8080", "address to serve HTTP on")
	drain := fs.Duration("drain", 2*time.Second, "time to go on serving after SIGTERM")
	ready := fs.Duration("ready-after", 0, "time until /readyz answers 200")
	if err := fs.Parse(args); err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	started := time.Now()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(load.BackendHeader, name)
		fmt.Fprintf(w, "%s answers %s\n", name, r.RemoteAddr)
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if time.Since(started) < *ready || ctx.Err() != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	srv := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	fmt.Printf("%s serves on %s\n", name, *listen)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	time.Sleep(*drain)
	shutdown, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return srv.Shutdown(shutdown)
}

func generate(ctx context.Context, args []string) error {
	var o load.Options
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	fs.StringVar(&o.URL, "url", "", "what to request")
	fs.Float64Var(&o.Rate, "rate", 100, "requests per second")
	fs.DurationVar(&o.Duration, "duration", 10*time.Second, "how long to start requests")
	fs.BoolVar(&o.Reuse, "reuse", false, "keep connections open between requests")
	fs.DurationVar(&o.Timeout, "timeout", 5*time.Second, "time limit of one request")
	asJSON := fs.Bool("json", false, "print the result as JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	r, err := load.Run(ctx, o)
	if err != nil {
		return err
	}
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	r.Print(os.Stdout)
	return nil
}
