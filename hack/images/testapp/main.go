// SPDX-License-Identifier: Apache-2.0

// Command testapp is the program in the images of node tests: each argument is a step, run in order, and the process
// ends with code 0 after the last. It needs no shell and no libc.
//
//	print=TEXT        a line on standard output; $NAME is replaced from the environment
//	env               the whole environment, one variable a line
//	cat=FILE          the file's content on standard output
//	ls=DIR            mode, owner and name of what is in DIR, one a line
//	write=FILE:TEXT   replaces FILE
//	fill=FILE:MIB     writes that many MiB into FILE
//	sleep=DURATION    waits; SIGTERM ends the process at once with code 0
//	forever           waits without end; SIGTERM ends the process with code 0
//	stubborn          waits without end and ignores SIGTERM
//	exit=CODE         ends the process
//	memory=MIB        allocates and touches memory
//	map=FILE:MIB      makes FILE that big and touches it through a shared mapping, as files of huge pages need it
//	serve=PORT        answers HTTP: /healthz (200, or 500 once /tmp/unhealthy exists), /hostname, /method (and what was asked), /seen/ (prints the request),
//	                  /redirect?to=URL, /link (a page), anything else echoes the request's path
//	tls=PORT          has the serve after it answer by TLS on this port too, with a certificate nobody trusts
//	udp=PORT          sends each datagram back, while the next steps run
//	get=URL           prints the answer to a request
//	ask=HOST:PORT     sends a datagram again and again for five seconds and prints the answer
//	grpc=PORT         answers gRPC's health check: SERVING for the service "up" and for none, NOT_SERVING for others
//	echo              copies standard input to standard output until it ends
//	exists=FILE       ends with code 1 when FILE does not exist
//	id                uid, gid, groups
package main

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	for _, argument := range os.Args[1:] {
		name, value, _ := strings.Cut(argument, "=")
		if err := step(name, value); err != nil {
			fmt.Fprintf(os.Stderr, "testapp: %s: %v\n", argument, err)
			os.Exit(1)
		}
	}
}

func step(name, value string) error {
	switch name {
	case "print":
		fmt.Println(os.ExpandEnv(value))
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "cat":
		data, err := os.ReadFile(value)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(data)
		return err
	case "ls":
		return list(value)
	case "write":
		file, text, _ := strings.Cut(value, ":")
		return os.WriteFile(file, []byte(text), 0o644)
	case "fill":
		file, mib, _ := strings.Cut(value, ":")
		n, err := strconv.Atoi(mib)
		if err != nil {
			return err
		}
		return os.WriteFile(file, make([]byte, n<<20), 0o644)
	case "sleep":
		d, err := time.ParseDuration(value)
		if err != nil {
			return err
		}
		wait(time.After(d))
	case "forever":
		wait(nil)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("stubborn")
		for {
			time.Sleep(time.Hour)
		}
	case "exit":
		code, err := strconv.Atoi(value)
		if err != nil {
			return err
		}
		os.Exit(code)
	case "memory":
		return allocate(value)
	case "map":
		return mapFile(value)
	case "serve":
		return serve(value)
	case "tls":
		return serveTLS(value)
	case "udp":
		return echoDatagrams(value)
	case "ask":
		return ask(value)
	case "get":
		return get(value)
	case "grpc":
		return serveHealth(value)
	case "echo":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "exists":
		_, err := os.Stat(value)
		return err
	case "id":
		groups, err := os.Getgroups()
		fmt.Println(os.Getuid(), os.Getgid(), groups)
		return err
	default:
		return fmt.Errorf("no such step")
	}
	return nil
}

// wait returns when done fires; SIGTERM ends the process.
func wait(done <-chan time.Time) {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	defer signal.Stop(terminated)
	select {
	case <-done:
	case <-terminated:
		fmt.Println("terminated")
		os.Exit(0)
	}
}

func list(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "..") {
			continue // how volumes are made up inside
		}
		info, err := os.Stat(dir + "/" + entry.Name())
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t)
		fmt.Println(info.Mode(), owner.Uid, owner.Gid, entry.Name())
	}
	return nil
}

func allocate(mib string) error {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return err
	}
	var kept [][]byte
	for range n {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		kept = append(kept, block)
	}
	fmt.Println("allocated", len(kept))
	return nil
}

func mapFile(value string) error {
	name, mib, _ := strings.Cut(value, ":")
	n, err := strconv.Atoi(mib)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(int64(n) << 20); err != nil {
		return err
	}
	memory, err := syscall.Mmap(int(file.Fd()), 0, n<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	fmt.Println("mapped", n)
	return nil
}

func serve(port string) error {
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat("/tmp/unhealthy"); err == nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	http.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) {
		name, _ := os.Hostname()
		fmt.Fprint(w, name)
	})
	http.HandleFunc("/method", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Method, " ", r.URL.RequestURI()) })
	http.HandleFunc("/seen/", func(_ http.ResponseWriter, r *http.Request) { fmt.Println(r.Method, r.URL.Path, r.Header.Get("X-Who")) })
	http.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.FormValue("to"), http.StatusFound) })
	http.HandleFunc("/link", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<a href="/elsewhere">link</a>`) })
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	go wait(nil)
	return http.ListenAndServe(":"+port, nil)
}

// serveTLS has `serve`, which comes after it, serve by TLS on another port too, with a certificate of its own that nobody trusts.
func serveTLS(port string) error {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"testapp"}}
	certificate, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", ":"+port, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: private}}})
	if err != nil {
		return err
	}
	go func() {
		fmt.Fprintln(os.Stderr, "testapp: tls:", http.Serve(listener, nil))
		os.Exit(1)
	}()
	return nil
}

func echoDatagrams(port string) error {
	conn, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	go func() {
		for buffer := make([]byte, 1<<16); ; {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				fmt.Fprintln(os.Stderr, "testapp: udp:", err)
				os.Exit(1)
			}
			_, _ = conn.WriteTo(buffer[:n], from) // who asks asks again
		}
	}()
	return nil
}

// get prints what a URL answers; other codes than 200 are an error.
func get(url string) error {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", response.Status)
	}
	_, err = io.Copy(os.Stdout, response.Body)
	fmt.Println()
	return err
}

// ask sends a datagram to host:port until it is answered, for five seconds, and prints the answer.
func ask(address string) error {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	buffer := make([]byte, 1<<16)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if _, err = conn.Write([]byte("hello")); err != nil {
			continue // refused: what came back for the datagram before
		}
		if err = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			return err
		}
		var n int
		if n, err = conn.Read(buffer); err == nil {
			fmt.Println(string(buffer[:n]))
			return nil
		}
	}
	return fmt.Errorf("no answer: %w", err)
}

// serveHealth is grpc.health.v1.Health/Check in plain HTTP/2, without a gRPC library: a message is a byte for no compression, its length in four, and
// protocol buffers; field 1 of the request is the service's name, field 1 of the answer 1 (SERVING) or 2 (NOT_SERVING).
func serveHealth(port string) error {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := http.Server{Addr: ":" + port, Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		status := byte(2)
		if len(request) == 5 || string(request[5:]) == "\x0a\x02up" {
			status = 1
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write([]byte{0, 0, 0, 0, 2, 0x08, status})
		w.Header().Set("Grpc-Status", "0")
	})}
	go wait(nil)
	return server.ListenAndServe()
}
