// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
)

// TestNetworkBehaviours tries entries of sig-network in Kubernetes' conformance list.
func TestNetworkBehaviours(t *testing.T) {
	runBehaviours(t, "net", []behaviour{
		{"the API server's proxy to pods and services: ports by name and number, both schemes, links rewritten", proxiesPorts},
		{"the API server's proxy: every method, with a path and without", proxiesMethods},
		{"one host port for several pods by address and protocol", hostPorts},
		{"session affinity on, off and on again, by cluster and node address", affinity},
		{"a service's type: external name, cluster address, node port, and back", serviceTypes},
		{"one port number for two protocols, then for one", twoProtocols},
		{"endpoints follow pods and their ports", endpointsFollow},
		{"endpoints written by hand are mirrored", mirrored},
		{"HTTP and UDP between pods, and from nodes to pods", podToPod},
		{"the service of the API server and its endpoints", ownService},
	})
}

const server = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME, group: servers}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: IMAGE
    command: [/testapp, udp=8080, udp=8081, tls=8443, serve=8080]
    ports: [{name: web, containerPort: 8080}, {name: secure, containerPort: 8443}]
    readinessProbe: {periodSeconds: 1, httpGet: {path: /healthz, port: web}}
`

// servers starts pods that serve and waits for them.
func (b trial) servers(names ...string) {
	b.Helper()
	for _, name := range names {
		b.create(strings.ReplaceAll(server, "NAME", name))
	}
	for _, name := range names {
		b.untilReady(name)
	}
}

// client starts a pod to send requests from, on the node's own network when node is given.
func (b trial) client(name, node string) {
	b.Helper()
	where := ""
	if node != "" {
		where = "nodeName: " + node + ", hostNetwork: true, "
	}
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `}, spec: {` + where + `terminationGracePeriodSeconds: 1,
containers: [{name: app, image: IMAGE, command: [/testapp, forever]}]}}`)
	b.untilReady(name)
}

// answers asks from a pod until it gets this answer.
func (b trial) answers(from, script, want string) {
	b.Helper()
	b.eventually(func() error {
		if got, err := b.exec(from, "", script); err != nil || strings.TrimSpace(got) != want {
			return fmt.Errorf("%s from %s: %q %v, want %q", script, from, got, err, want)
		}
		return nil
	})
}

// http sends a request to the API server as an administrator, redirects not followed.
func (b trial) http(method, path string) (code int, body string, header http.Header) {
	b.Helper()
	client, err := rest.HTTPClientFor(b.config)
	b.must(err)
	client = &http.Client{Transport: client.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	request, err := http.NewRequestWithContext(b.Context(), method, b.config.Host+path, nil)
	b.must(err)
	response, err := client.Do(request)
	b.must(err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	b.must(err)
	return response.StatusCode, string(data), response.Header
}

// untilProxied waits until the proxy to the service has an endpoint.
func (b trial) untilProxied(service string) {
	b.Helper()
	b.eventually(func() error {
		if code, body, _ := b.http("GET", "/api/v1/namespaces/"+b.ns+"/services/"+service+"/proxy/healthz"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
}

const proxied = `
apiVersion: v1
kind: Service
metadata: {name: proxied}
spec:
  selector: {app: server}
  ports:
  - {name: by-name, port: 80, targetPort: web}
  - {name: by-number, port: 81, targetPort: 8080}
  - {name: tls-by-name, port: 443, targetPort: secure}
  - {name: tls-by-number, port: 444, targetPort: 8443}
`

func proxiesPorts(b trial) {
	b.create(proxied)
	b.servers("server")
	b.untilProxied("proxied:by-name")
	base := "/api/v1/namespaces/" + b.ns
	for _, target := range []string{
		"services/proxied:by-name", "services/proxied:80", "services/http:proxied:by-name", "services/proxied:by-number", "services/http:proxied:by-number",
		"services/https:proxied:tls-by-name", "services/https:proxied:tls-by-number", "services/https:proxied:443",
		"pods/server", "pods/server:8080", "pods/http:server:8080", "pods/https:server:8443",
	} {
		if code, body, _ := b.http("GET", base+"/"+target+"/proxy/hostname"); code != http.StatusOK || body != "server" {
			b.Errorf("%s: %d %q", target, code, body)
		}
	}
	for _, target := range []string{"pods/server", "pods/server:8080", "pods/http:server:8080", "pods/https:server:8443"} {
		want := `<a href="` + base + "/" + target + `/proxy/elsewhere">link</a>`
		if code, body, _ := b.http("GET", base+"/"+target+"/proxy/link"); code != http.StatusOK || body != want {
			b.Errorf("%s: %d %q, want %q", target, code, body, want)
		}
	}
	if code, _, _ := b.http("GET", base+"/services/proxied:none/proxy/"); code != http.StatusServiceUnavailable {
		b.Errorf("a port that the service lacks: %d", code)
	}
	for _, node := range []string{"nodes/agent-1", "nodes/agent-1:10250"} {
		if code, body, _ := b.http("GET", "/api/v1/"+node+"/proxy/logs/"); code != http.StatusOK || !strings.Contains(body, "pods/") {
			b.Errorf("logs of %s: %d %q", node, code, body)
		}
		if code, body, _ := b.http("GET", "/api/v1/"+node+"/proxy/metrics"); code != http.StatusOK || !strings.Contains(body, "\n# TYPE ") {
			b.Errorf("metrics of %s: %d %.200q", node, code, body)
		}
	}
}

func proxiesMethods(b trial) {
	b.create(`{apiVersion: v1, kind: Service, metadata: {name: proxied}, spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}}`)
	b.servers("server")
	b.untilProxied("proxied")
	for _, target := range []string{"pods/server:8080", "services/proxied"} {
		path := "/api/v1/namespaces/" + b.ns + "/" + target + "/proxy"
		for _, method := range []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"} {
			want := method + " /method?a=b"
			if method == "HEAD" {
				want = ""
			}
			if code, body, _ := b.http(method, path+"/method?a=b"); code != http.StatusOK || body != want {
				b.Errorf("%s %s with a path: %d %q", method, target, code, body)
			}
			code, body, header := b.http(method, path+"?method="+method)
			if method == "GET" || method == "HEAD" {
				if code != http.StatusMovedPermanently || header.Get("Location") != path+"/?method="+method {
					b.Errorf("%s %s without a path: %d, to %q", method, target, code, header.Get("Location"))
				}
			} else if code != http.StatusOK || body != "/" {
				b.Errorf("%s %s without a path: %d %q", method, target, code, body)
			}
		}
	}
}

func hostPorts(b trial) {
	node := "agent-1"
	address := nodeAddress(b, node)
	for name, port := range map[string]string{
		"local": "hostIP: 127.0.0.1", "outward": "hostIP: " + address, "datagrams": "protocol: UDP, hostIP: " + address,
	} {
		b.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `}, spec: {nodeSelector: {kubernetes.io/hostname: ` + node + `}, terminationGracePeriodSeconds: 1,
containers: [{name: app, image: IMAGE, command: [/testapp, udp=8080, serve=8080], ports: [{containerPort: 8080, hostPort: 54323, ` + port + `}]}]}}`)
	}
	for _, name := range []string{"local", "outward", "datagrams"} {
		if pod := b.untilReady(name); pod.Spec.NodeName != node {
			b.Errorf("%s is on %s", name, pod.Spec.NodeName)
		}
	}
	b.client("on-the-node", node)
	b.answers("on-the-node", "/testapp get=http://127.0.0.1:54323/hostname", "local")
	b.answers("on-the-node", "/testapp get=http://"+address+":54323/hostname", "outward")
	b.answers("on-the-node", "/testapp ask="+address+":54323", "hello")
	b.client("elsewhere", "agent-2")
	b.answers("elsewhere", "/testapp get=http://"+address+":54323/hostname", "outward")
	b.answers("elsewhere", "/testapp ask="+address+":54323", "hello")

	// The port on all addresses conflicts with each of them.
	b.create(`{apiVersion: v1, kind: Pod, metadata: {name: late}, spec: {nodeSelector: {kubernetes.io/hostname: ` + node + `},
containers: [{name: app, image: IMAGE, command: [/testapp, serve=8080], ports: [{containerPort: 8080, hostPort: 54323}]}]}}`)
	b.until("late", "refused by the scheduler", func(pod *corev1.Pod) bool {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, "free ports") {
				return true
			}
		}
		return false
	})
}

// nodeAddress is a node's IPv4 address.
func nodeAddress(b trial, name string) string {
	b.Helper()
	node, err := env.client.CoreV1().Nodes().Get(b.Context(), name, metav1.GetOptions{})
	b.must(err)
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && !strings.Contains(a.Address, ":") {
			return a.Address
		}
	}
	b.Fatalf("%s has no IPv4 address: %v", name, node.Status.Addresses)
	return ""
}

func affinity(b trial) {
	b.create(`{apiVersion: v1, kind: Service, metadata: {name: sticky}, spec: {type: NodePort, sessionAffinity: ClientIP, selector: {group: servers}, ports: [{port: 80, targetPort: 8080}]}}`)
	b.servers("s1", "s2", "s3")
	b.client("client", "")
	svc, err := env.client.CoreV1().Services(b.ns).Get(b.Context(), "sticky", metav1.GetOptions{})
	b.must(err)
	for _, way := range []string{
		"http://sticky/hostname", fmt.Sprintf("http://%s/hostname", svc.Spec.ClusterIP),
		fmt.Sprintf("http://%s:%d/hostname", nodeAddress(b, "agent-1"), svc.Spec.Ports[0].NodePort), fmt.Sprintf("http://%s:%d/hostname", nodeAddress(b, "agent-2"), svc.Spec.Ports[0].NodePort),
	} {
		ask := "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do /testapp get=" + way + "; done | sort -u | wc -l"
		for _, kind := range []corev1.ServiceAffinity{corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP} {
			b.update("sticky", func(svc *corev1.Service) { svc.Spec.SessionAffinity = kind })
			b.eventually(func() error {
				got, err := b.exec("client", "", ask)
				if one := strings.TrimSpace(got) == "1"; err != nil || one != (kind == corev1.ServiceAffinityClientIP) {
					return fmt.Errorf("affinity %s: %s was answered by %q pods: %v", kind, way, got, err)
				}
				return nil
			})
		}
	}
}

// update changes a service, again when somebody else did.
func (b trial) update(name string, change func(*corev1.Service)) (svc *corev1.Service) {
	b.Helper()
	services := env.client.CoreV1().Services(b.ns)
	b.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		current, err := services.Get(b.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(current)
		svc, err = services.Update(b.Context(), current, metav1.UpdateOptions{})
		return err
	}))
	return svc
}

func serviceTypes(b trial) {
	b.create(`{apiVersion: v1, kind: Service, metadata: {name: turning}, spec: {type: ExternalName, externalName: one.example.com, selector: {app: server}}}`)
	b.servers("server")
	b.client("client", "")
	name := "turning." + b.ns + ".svc.cluster.local"
	cname := func(want string) {
		b.Helper()
		b.answers("client", "nslookup -type=cname "+name+" | sed -n 's/.*canonical name = //p'", want)
	}
	external := func(target string) {
		b.Helper()
		svc := b.update("turning", func(svc *corev1.Service) {
			svc.Spec.Type, svc.Spec.ExternalName, svc.Spec.ClusterIP, svc.Spec.ClusterIPs = corev1.ServiceTypeExternalName, target, "", nil
			svc.Spec.Ports[0].NodePort = 0
		})
		if svc.Spec.ClusterIP != "" || len(svc.Spec.ClusterIPs) != 0 || svc.Spec.Ports[0].NodePort != 0 {
			b.Errorf("an external name keeps %+v", svc.Spec)
		}
		cname(target)
	}
	inside := func(kind corev1.ServiceType) *corev1.Service {
		b.Helper()
		svc := b.update("turning", func(svc *corev1.Service) {
			svc.Spec.Type, svc.Spec.ExternalName = kind, ""
			svc.Spec.Ports = []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP}}
		})
		if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
			b.Errorf("%s without an address: %+v", kind, svc.Spec)
		}
		b.answers("client", "/testapp get=http://turning/hostname", "server")
		b.answers("client", "/testapp get=http://"+svc.Spec.ClusterIP+"/hostname", "server")
		return svc
	}
	cname("one.example.com")
	b.update("turning", func(svc *corev1.Service) { svc.Spec.ExternalName = "two.example.com" })
	cname("two.example.com")
	inside(corev1.ServiceTypeClusterIP)
	external("three.example.com")
	svc := inside(corev1.ServiceTypeNodePort)
	port := svc.Spec.Ports[0].NodePort
	for _, node := range []string{"agent-1", "agent-2"} {
		b.answers("client", fmt.Sprintf("/testapp get=http://%s:%d/hostname", nodeAddress(b, node), port), "server")
	}
	external("four.example.com")
	// The port that the service gave back is free.
	b.create(fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: next}, spec: {type: NodePort, ports: [{port: 80, nodePort: %d}]}}`, port))
}

func twoProtocols(b trial) {
	b.create(`{apiVersion: v1, kind: Service, metadata: {name: both}, spec: {selector: {app: server}, ports: [{name: t, port: 90, targetPort: 8080, protocol: TCP}, {name: u, port: 90, targetPort: 8080, protocol: UDP}]}}`)
	b.servers("server")
	b.client("client", "")
	stream, datagram := "/testapp get=http://both:90/hostname", "/testapp ask=both:90"
	answered := func(ask, want string, yes bool) {
		b.Helper()
		if yes {
			b.answers("client", ask, want)
			return
		}
		b.eventually(func() error {
			if got, err := b.exec("client", "", ask); err == nil {
				return fmt.Errorf("%s is still answered: %q", ask, got)
			}
			return nil
		})
	}
	all := b.update("both", func(*corev1.Service) {}).Spec.Ports
	for _, ports := range [][]corev1.ServicePort{all, all[:1], all[1:], all} {
		b.update("both", func(svc *corev1.Service) { svc.Spec.Ports = ports })
		has := func(p corev1.Protocol) bool {
			return slices.ContainsFunc(ports, func(port corev1.ServicePort) bool { return port.Protocol == p })
		}
		answered(stream, "server", has(corev1.ProtocolTCP))
		answered(datagram, "hello", has(corev1.ProtocolUDP))
	}
}

// endpoints waits until the slices of a service hold exactly these "port name/port of pod's address" and its Endpoints as many addresses.
func (b trial) endpoints(service string, want map[string]string) {
	b.Helper()
	b.eventually(func() error {
		list, err := env.client.DiscoveryV1().EndpointSlices(b.ns).List(b.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
		if err != nil {
			return err
		}
		got := map[string]string{}
		for _, slice := range list.Items {
			for _, e := range slice.Endpoints {
				for _, port := range slice.Ports {
					if e.TargetRef == nil || slice.AddressType != discoveryv1.AddressTypeIPv4 || e.Conditions.Ready == nil || !*e.Conditions.Ready {
						continue
					}
					got[e.TargetRef.Name] += fmt.Sprintf("%s:%d ", *port.Name, *port.Port)
				}
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("slices of %s have %v, want %v", service, got, want)
		}
		old, err := env.client.CoreV1().Endpoints(b.ns).Get(b.Context(), service, metav1.GetOptions{}) //nolint:staticcheck // deprecated, and served
		if err != nil {
			return err
		}
		addresses := map[string]bool{}
		for _, subset := range old.Subsets {
			for _, a := range subset.Addresses {
				addresses[a.TargetRef.Name] = true
			}
		}
		if len(addresses) != len(want) {
			return fmt.Errorf("endpoints of %s have %v, want %v", service, addresses, want)
		}
		return nil
	})
}

func endpointsFollow(b trial) {
	b.create(`{apiVersion: v1, kind: Service, metadata: {name: multi}, spec: {ipFamilies: [IPv4], selector: {m: m}, ports: [{name: one, port: 80, targetPort: first}, {name: two, port: 81, targetPort: second}]}}`)
	b.endpoints("multi", nil)
	pod := func(name, port string, number int) string {
		return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, labels: {m: m}}, spec: {terminationGracePeriodSeconds: 1,
containers: [{name: app, image: IMAGE, command: [/testapp, serve=%d], ports: [{name: %s, containerPort: %d}]}]}}`, name, number, port, number)
	}
	b.create(pod("p1", "first", 100))
	b.endpoints("multi", map[string]string{"p1": "one:100 "})
	b.create(pod("p2", "second", 101))
	b.endpoints("multi", map[string]string{"p1": "one:100 ", "p2": "two:101 "})
	b.client("client", "")
	b.answers("client", "/testapp get=http://multi:80/hostname", "p1")
	b.answers("client", "/testapp get=http://multi:81/hostname", "p2")
	pods := env.client.CoreV1().Pods(b.ns)
	b.must(pods.Delete(b.Context(), "p1", metav1.DeleteOptions{}))
	b.endpoints("multi", map[string]string{"p2": "two:101 "})
	b.must(pods.Delete(b.Context(), "p2", metav1.DeleteOptions{}))
	b.endpoints("multi", nil)
	b.must(env.client.CoreV1().Services(b.ns).Delete(b.Context(), "multi", metav1.DeleteOptions{}))
	b.eventually(func() error {
		list, err := env.client.DiscoveryV1().EndpointSlices(b.ns).List(b.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != 0 {
			return fmt.Errorf("the service is gone, %d slices are left: %v", len(list.Items), err)
		}
		if _, err := env.client.CoreV1().Endpoints(b.ns).Get(b.Context(), "multi", metav1.GetOptions{}); !apierrors.IsNotFound(err) { //nolint:staticcheck // deprecated, and served
			return fmt.Errorf("the service is gone, its endpoints are left: %v", err)
		}
		return nil
	})
}

func mirrored(b trial) {
	b.create(`
{apiVersion: v1, kind: Service, metadata: {name: manual}, spec: {ports: [{name: example, port: 80, protocol: TCP}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: manual}, subsets: [{addresses: [{ip: 10.1.2.3}], ports: [{name: example, port: 80, protocol: TCP}]}]}`)
	mirror := func(address string, port int32) {
		b.Helper()
		b.eventually(func() error {
			list, err := env.client.DiscoveryV1().EndpointSlices(b.ns).List(b.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=manual"})
			if err != nil {
				return err
			}
			if address == "" && len(list.Items) == 0 {
				return nil
			}
			if len(list.Items) != 1 {
				return fmt.Errorf("%d slices, want one for %q", len(list.Items), address)
			}
			s := list.Items[0]
			if len(s.Endpoints) != 1 || len(s.Ports) != 1 || s.Endpoints[0].Addresses[0] != address || *s.Ports[0].Port != port || s.Labels[discoveryv1.LabelManagedBy] != "endpointslicemirroring-controller.k8s.io" {
				return fmt.Errorf("%+v, want %s:%d", s, address, port)
			}
			return nil
		})
	}
	mirror("10.1.2.3", 80)
	endpoints := env.client.CoreV1().Endpoints(b.ns) //nolint:staticcheck // deprecated, and served
	_, err := endpoints.Patch(b.Context(), "manual", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}},"subsets":[{"addresses":[{"ip":"10.2.3.4"}],"ports":[{"name":"example","port":9090}]}]}`), metav1.PatchOptions{})
	b.must(err)
	mirror("10.2.3.4", 9090)
	b.must(endpoints.DeleteCollection(b.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "a=b"}))
	mirror("", 0)
}

func podToPod(b trial) {
	b.servers("server")
	pod := b.untilReady("server")
	b.client("pod", "")
	b.client("node", "agent-1")
	b.client("other-node", "server-1")
	for _, from := range []string{"pod", "node", "other-node"} {
		for _, ip := range pod.Status.PodIPs {
			address := ip.IP
			if strings.Contains(address, ":") {
				address = "[" + address + "]"
			}
			b.answers(from, "/testapp get=http://"+address+":8080/hostname", "server")
			b.answers(from, "/testapp ask="+address+":8081", "hello")
		}
	}
}

func ownService(b trial) {
	list, err := env.client.CoreV1().Services("").List(b.Context(), metav1.ListOptions{})
	b.must(err)
	if !slices.ContainsFunc(list.Items, func(svc corev1.Service) bool { return svc.Namespace == "default" && svc.Name == "kubernetes" }) {
		b.Error(errors.New("no service kubernetes in the namespace default"))
	}
	found, err := env.client.DiscoveryV1().EndpointSlices("default").List(b.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
	b.must(err)
	old, err := env.client.CoreV1().Endpoints("default").Get(b.Context(), "kubernetes", metav1.GetOptions{}) //nolint:staticcheck // deprecated, and served
	b.must(err)
	if len(found.Items) == 0 || len(found.Items[0].Endpoints) != 1 || len(old.Subsets) != 1 || old.Subsets[0].Addresses[0].IP != found.Items[0].Endpoints[0].Addresses[0] {
		b.Errorf("slices %+v, endpoints %+v", found.Items, old.Subsets)
	}
}
