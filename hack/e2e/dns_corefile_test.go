// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dig asks the cluster's DNS address from a host and returns what dig prints.
func dig(t *testing.T, host, question string) string {
	t.Helper()
	return runOn(t, host, "dig +time=2 +tries=2 +noall +comments +answer @10.96.0.10 "+question)
}

// wantDig waits until an answer shows want: a Corefile is loaded soon after it was written.
func wantDig(t *testing.T, host, question, want string) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		if out := dig(t, host, question); !strings.Contains(out, want) {
			return fmt.Errorf("%s: want %q in\n%s", question, want, out)
		}
		return nil
	})
}

// TestClusterCorefile writes a Corefile for the whole cluster with what operators put into theirs: zone transfer, a stub zone, a template, servers of the world over TLS, verified pods,
// autopath.
func TestClusterCorefile(t *testing.T) {
	const host = "agent-1"
	dir := "/var/lib/fairlead/agent/e2e-dns"
	runOn(t, host, "mkdir -p "+dir+" && cd "+dir+" && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=world.example "+
		"-addext subjectAltName=DNS:world.example -keyout key.pem -out cert.pem 2>&1 && chmod 0644 *.pem")
	cert, key := runOn(t, host, "cat "+dir+"/cert.pem"), runOn(t, host, "cat "+dir+"/key.pem")
	for _, other := range []string{"server-1", "agent-2"} { // one Corefile for all nodes: each needs its files
		runOn(t, other, "mkdir -p "+dir+" && cat > "+dir+"/cert.pem <<'E'\n"+cert+"\nE\ncat > "+dir+"/key.pem <<'E'\n"+key+"\nE\n")
	}
	corefile := strings.ReplaceAll(`.:{{PORT}} {
    bind {{BIND}}
    errors
    bufsize 1232
    autopath @fairlead
    transfer {
        to *
    }
    fairlead {{DOMAIN}} in-addr.arpa ip6.arpa {
        pods verified
    }
    forward . tls://127.0.0.1:10853 {
        tls DIR/cert.pem
        tls_servername world.example
    }
    loadbalance
}
stub.example:{{PORT}} {
    bind {{BIND}}
    forward . 127.0.0.1:10055
}
template.example:{{PORT}} {
    bind {{BIND}}
    template IN A {
        answer "{{ .Name }} 60 IN A 192.0.2.7"
    }
}
tls://.:10853 {
    bind 127.0.0.1
    tls DIR/cert.pem DIR/key.pem
    template IN A example.com {
        answer "{{ .Name }} 60 IN A 192.0.2.53"
    }
    template IN ANY {
        rcode NXDOMAIN
    }
}
stub.example:10055 {
    bind 127.0.0.1
    template IN A {
        answer "{{ .Name }} 60 IN A 192.0.2.9"
    }
}
`, "DIR", dir)
	file := filepath.Join(t.TempDir(), "Corefile")
	if err := os.WriteFile(file, []byte(corefile), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "-n", "kube-system", "create", "configmap", "fairlead-dns", "--from-file=Corefile="+file)
	defer func() {
		kubectl(t, "-n", "kube-system", "delete", "configmap", "fairlead-dns")
		wantDig(t, host, "x.template.example A", "status: ") // the default Corefile's answer, whatever the host's servers say
		eventually(t, 30*time.Second, func() error {
			if out := dig(t, host, "x.template.example A"); strings.Contains(out, "192.0.2.7") {
				return fmt.Errorf("the default Corefile is not back: %s", out)
			}
			return nil
		})
	}()

	wantDig(t, host, "x.template.example A", "192.0.2.7")
	wantDig(t, host, "x.stub.example A", "192.0.2.9")
	wantDig(t, host, "www.example.com A", "192.0.2.53")
	wantDig(t, host, "web.sample.svc.cluster.local A", "status: NOERROR")

	zone := runOn(t, host, "dig +time=5 +tries=1 @10.96.0.10 cluster.local AXFR")
	for _, want := range []string{"dns-version.cluster.local.", "web.sample.svc.cluster.local.", "kube-dns.kube-system.svc.cluster.local.", "SOA"} {
		if !strings.Contains(zone, want) {
			t.Errorf("no %s in the zone transferred:\n%s", want, zone)
		}
	}
	if n := strings.Count(zone, "SOA"); n != 2 {
		t.Errorf("%d SOA records in the zone transferred, want it to begin and end with one (RFC 5936 section 2.2)", n)
	}

	ip := podOn(t, host)
	dashed := strings.ReplaceAll(ip, ".", "-")
	wantDig(t, host, dashed+".sample.pod.cluster.local A", ip)
	wantDig(t, host, dashed+".default.pod.cluster.local A", "status: NXDOMAIN")
	wantDig(t, host, "192-0-2-1.sample.pod.cluster.local A", "status: NXDOMAIN")

	if out := digInPod(t, host, ip, "www.example.com.sample.svc.cluster.local A"); !strings.Contains(out, "CNAME") || !strings.Contains(out, "192.0.2.53") {
		t.Errorf("a pod whose search list autopath walks is answered\n%s", out)
	}
	if out := digInPod(t, host, ip, "www.example.com.default.svc.cluster.local A"); !strings.Contains(out, "status: NXDOMAIN") {
		t.Errorf("a pod that asks in a namespace not its own is answered\n%s", out)
	}
}

// TestClusterCorefilePlugins loads a Corefile with the other plugins that operators use, and looks at what each does.
func TestClusterCorefilePlugins(t *testing.T) {
	const host = "agent-1"
	file := filepath.Join(t.TempDir(), "Corefile")
	if err := os.WriteFile(file, []byte(`.:{{PORT}} {
    bind {{BIND}}
    errors
    log
    health :18080
    ready :18181
    prometheus :9153
    bufsize 1232
    loop
    hosts {
        192.0.2.10 box.hosts.example
        fallthrough
    }
    rewrite name exact alias.rewrite.example web.sample.svc.cluster.local
    template IN A template.example {
        answer "{{ .Name }} 60 IN A 192.0.2.7"
    }
    search {{DOMAIN}} {{RESOLV_CONF}}
    fairlead {{DOMAIN}} in-addr.arpa ip6.arpa
    cache 30 {
        prefetch 10
        serve_stale 1h
    }
    forward . {{UPSTREAMS}}
    loadbalance
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	web := kubectl(t, "-n", "sample", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	kubectl(t, "-n", "kube-system", "create", "configmap", "fairlead-dns", "--from-file=Corefile="+file)
	defer func() {
		kubectl(t, "-n", "kube-system", "delete", "configmap", "fairlead-dns")
		eventually(t, 30*time.Second, func() error {
			if out := dig(t, host, "box.hosts.example A"); strings.Contains(out, "192.0.2.10") {
				return fmt.Errorf("the default Corefile is not back: %s", out)
			}
			return nil
		})
	}()
	wantDig(t, host, "box.hosts.example A", "192.0.2.10")
	wantDig(t, host, "alias.rewrite.example A", web)
	wantDig(t, host, "x.template.example A", "192.0.2.7")
	wantDig(t, host, "web.sample.svc.cluster.local A", web)
	for url, want := range map[string]string{"http://127.0.0.1:18080/health": "OK", "http://127.0.0.1:18181/ready": "OK", "http://127.0.0.1:9153/metrics": "coredns_dns_requests_total"} {
		eventually(t, 30*time.Second, func() error {
			if out := runOn(t, host, "curl -sS -m 5 "+url+" 2>&1 || true"); !strings.Contains(out, want) {
				return fmt.Errorf("%s: want %q in %.200s", url, want, out)
			}
			return nil
		})
	}
	eventually(t, 30*time.Second, func() error {
		if out := runOn(t, host, "tail -n 200 /var/lib/fairlead/agent/dns.log"); !strings.Contains(out, "box.hosts.example.") {
			return fmt.Errorf("the plugin log wrote nothing of a question that was answered")
		}
		return nil
	})
}

// podOn returns the IPv4 address of a pod of the sample on a node.
func podOn(t *testing.T, host string) string {
	t.Helper()
	ips := strings.Fields(kubectl(t, "-n", "sample", "get", "pods", "--field-selector", "spec.nodeName="+host+",status.phase=Running", "-o", `jsonpath={range .items[*]}{.status.podIP} {end}`))
	if len(ips) == 0 {
		t.Fatalf("no pod of the sample runs on %s", host)
	}
	return ips[0]
}

// digInPod asks the cluster's DNS address from a pod's network, in a cgroup whose sockets the node's hooks do not see: every question is a packet to the Service's address.
func digInPod(t *testing.T, host, ip, question string) string {
	t.Helper()
	init, err := env.sandbox.InitPid(host)
	if err != nil {
		t.Fatal(err)
	}
	script := `for p in $(pgrep -x sample); do
	if nsenter -t $p -n ip -o addr | grep -qF " ` + ip + `/"; then exec nsenter -t $p -n dig +time=2 +tries=2 +noall +comments +answer @10.96.0.10 ` + question + `; fi
done; echo no process of pod ` + ip + `; exit 1`
	out, err := exec.CommandContext(t.Context(), "nsenter", "--target", strconv.Itoa(init), "--mount", "--net", "--pid", "--", "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s in pod %s: %v\n%s", question, ip, err, out)
	}
	return string(out)
}

// TestClusterDNSByPacket asks without the socket hook: an answer must come from the Service's address, over UDP and TCP.
func TestClusterDNSByPacket(t *testing.T) {
	const host = "agent-1"
	ip := podOn(t, host)
	for range 5 {
		if out := digInPod(t, host, ip, "web.sample.svc.cluster.local A"); !strings.Contains(out, "status: NOERROR") {
			t.Fatalf("answered\n%s", out)
		}
	}
	if out := digInPod(t, host, ip, "+tcp web.sample.svc.cluster.local A"); !strings.Contains(out, "status: NOERROR") {
		t.Errorf("answered over TCP\n%s", out)
	}
}

// TestClusterDNSGivesMetrics asks the Service kube-dns for metrics, and has it regain the port when it was made without.
func TestClusterDNSGivesMetrics(t *testing.T) {
	const host = "agent-1"
	metrics := func() error {
		var missing []string
		for _, host := range []string{host, "server-1"} {
			if out := runOn(t, host, "curl -sS -m 5 http://10.96.0.10:9153/metrics 2>&1 || true"); !strings.Contains(out, "coredns_dns_requests_total") {
				missing = append(missing, fmt.Sprintf("%s: %.200s", host, out))
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("no metrics at kube-dns: %v", missing)
		}
		return nil
	}
	if err := dnsQuery(t.Context(), host, "kubernetes.default.svc.cluster.local"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, metrics)
	kubectl(t, "-n", "kube-system", "patch", "service", "kube-dns", "--type=json", "-p", `[{"op":"remove","path":"/spec/ports/2"}]`)
	eventually(t, 30*time.Second, func() error {
		if out := kubectl(t, "-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.ports[*].port}"); out != "53 53 9153" {
			return fmt.Errorf("ports %s", out)
		}
		return nil
	})
	eventually(t, 10*time.Second, metrics)
}

// TestDNSTools looks inside with flctl, as the documentation shows.
func TestDNSTools(t *testing.T) {
	const host = "agent-1"
	flctl := func(args string) string { return runOn(t, host, filepath.Join(env.bin, "flctl")+" dns "+args) }
	if out := flctl("query web.sample.svc.cluster.local"); !strings.Contains(out, "status: NOERROR") {
		t.Errorf("query: %s", out)
	}
	if out := flctl("top -n 100"); !strings.Contains(out, "sample/web") {
		t.Errorf("top does not count the service just asked for:\n%s", out)
	}
	ip := podOn(t, host)
	if out := flctl("trace www.example.com.sample.svc.cluster.local --from " + ip); !strings.Contains(out, "search") || !strings.Contains(out, "sample") {
		t.Errorf("trace of a pod's search list:\n%s", out)
	}
}
