// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestPodEnvironment is what a container finds around it: variables, files, names, namespaces, privileges.
func TestPodEnvironment(t *testing.T) {
	runPods(t, "e2e-environment", []podCase{
		{"variables: the downward API, config maps, secrets, services, expansion", variables},
		{"a thousand variables", func(p pods) {
			var vars strings.Builder
			for i := range 1000 {
				fmt.Fprintf(&vars, "    - {name: V%d, value: %q}\n", i, strings.Repeat("x", 100))
			}
			p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: thousand}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: IMAGE
    command: [sh, -c, 'env | grep -c ^V[0-9]; echo $V999']
    env:
` + vars.String())
			p.untilPhase("thousand", corev1.PodSucceeded)
			p.wantLog("thousand", "app", "1000\n"+strings.Repeat("x", 100)+"\n")
		}},
		{"names: host name, aliases, DNS policies", names},
		{"namespaces: the host's, and one for all containers", namespaces},
		{"privileges: user, groups, capabilities, seccomp, read-only root, sysctls", privileges},
		{"what is refused: root, unsafe sysctls, an unknown user, too much of the node", refusals},
		{"RuntimeClass", func(p pods) {
			p.apply(`
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: e2e-runc}
handler: runc
overhead: {podFixed: {memory: 8Mi}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: e2e-none}
handler: no-such-handler
---
apiVersion: v1
kind: Pod
metadata: {name: classed}
spec: {restartPolicy: Never, runtimeClassName: e2e-runc, containers: [{name: app, image: IMAGE, command: [echo, runs]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unclassed}
spec: {restartPolicy: Never, terminationGracePeriodSeconds: 1, runtimeClassName: e2e-none, containers: [{name: app, image: IMAGE, command: [echo, runs]}]}`)
			p.Cleanup(func() { kubectl(p.T, "delete", "runtimeclass", "e2e-runc", "e2e-none") })
			pod := p.untilPhase("classed", corev1.PodSucceeded)
			if memory := pod.Spec.Overhead[corev1.ResourceMemory]; memory.String() != "8Mi" {
				p.Errorf("overhead %v", pod.Spec.Overhead)
			}
			p.wantEvent("unclassed", "Warning FailedCreatePodSandBox", "no-such-handler")
		}},
		{"user namespaces: made where the runtime can, refused with the reason elsewhere", userNamespaces},
	})
}

func variables(p pods) {
	p.apply(`
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: red, size: large}
---
apiVersion: v1
kind: Secret
metadata: {name: hush}
stringData: {word: sesame}
---
apiVersion: v1
kind: Service
metadata: {name: neighbour}
spec: {selector: {none: none}, ports: [{name: web, port: 8765}]}`)
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: env, labels: {app: shop}, annotations: {note: hello}}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: IMAGE
    command: [env]
    resources: {requests: {cpu: 20m, memory: 32Mi}, limits: {memory: 64Mi}}
    envFrom: [{prefix: CFG_, configMapRef: {name: settings}}, {configMapRef: {name: absent, optional: true}}]
    env:
    - {name: A, value: one}
    - {name: B, value: "$(A)-$(NONE)-$$(A)"}
    - {name: WORD, valueFrom: {secretKeyRef: {name: hush, key: word}}}
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: lacking}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, command: [env], env: [{name: X, valueFrom: {secretKeyRef: {name: absent, key: x}}}]}]`)
	pod := p.untilPhase("env", corev1.PodSucceeded)
	p.wantLog("env", "app", "A=one\n", "B=one-$(NONE)-$(A)\n", "WORD=sesame\n", "COLOR=red\n", "CFG_size=large\n", "POD_IP="+pod.Status.PodIP+"\n", "NODE="+pod.Spec.NodeName+"\n",
		"APP=shop\n", "NOTE=hello\n", "CPU=20\n", "MEMORY=64\n", "HOSTNAME=env\n", "KUBERNETES_SERVICE_PORT=443\n", "NEIGHBOUR_SERVICE_PORT_WEB=8765\n")
	if pod := p.untilWaiting("lacking", "CreateContainerConfigError"); !strings.Contains(pod.Status.ContainerStatuses[0].State.Waiting.Message, `secret "absent" not found`) {
		p.Errorf("%+v", pod.Status.ContainerStatuses[0])
	}
}

func names(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: named}
spec:
  restartPolicy: Never
  hostname: box
  subdomain: shelf
  hostAliases: [{ip: 192.0.2.99, hostnames: [alias.example, other.example]}]
  dnsConfig: {searches: [more.example], options: [{name: ndots, value: "3"}]}
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'hostname; cat /etc/hosts /etc/resolv.conf']}]
---
apiVersion: v1
kind: Pod
metadata: {name: own-dns}
spec:
  restartPolicy: Never
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.53], searches: [only.example], options: [{name: edns0}]}
  containers: [{name: app, image: IMAGE, command: [cat, /etc/resolv.conf]}]
---
apiVersion: v1
kind: Pod
metadata: {name: node-dns}
spec: {restartPolicy: Never, dnsPolicy: Default, containers: [{name: app, image: IMAGE, command: [cat, /etc/resolv.conf]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: qualified}
spec: {restartPolicy: Never, subdomain: shelf, setHostnameAsFQDN: true, containers: [{name: app, image: IMAGE, command: [hostname]}]}`)
	ip := p.untilPhase("named", corev1.PodSucceeded).Status.PodIP
	p.wantLog("named", "app", "box\n", ip+"\tbox.shelf."+p.ns+".svc.cluster.local\tbox\n", "192.0.2.99\talias.example\tother.example\n",
		"search "+p.ns+".svc.cluster.local svc.cluster.local cluster.local", "more.example", "options ndots:3", "nameserver 10.96.0.10")
	p.untilPhase("own-dns", corev1.PodSucceeded)
	if log := p.kubectl("logs", "own-dns"); log != "search only.example\nnameserver 192.0.2.53\noptions edns0\n" {
		p.Errorf("resolv.conf of its own: %q", log)
	}
	p.untilPhase("node-dns", corev1.PodSucceeded)
	if log := p.kubectl("logs", "node-dns"); strings.Contains(log, "cluster.local") {
		p.Errorf("the node's resolv.conf: %q", log)
	}
	p.untilPhase("qualified", corev1.PodSucceeded)
	p.wantLog("qualified", "app", "qualified.shelf."+p.ns+".svc.cluster.local\n")
}

func namespaces(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: of-the-host}
spec: {restartPolicy: Never, nodeName: agent-1, hostNetwork: true, hostPID: true, hostIPC: true, containers: [{name: app, image: IMAGE, command: [sh, -c, 'hostname; ps; (readlink /proc/self/ns/ipc; readlink /proc/1/ns/ipc) | uniq | wc -l']}]}
---
apiVersion: v1
kind: Pod
metadata: {name: together}
spec:
  restartPolicy: Never
  shareProcessNamespace: true
  containers:
  - {name: app, image: IMAGE, command: [sh, -c, 'until grep -x testapp /proc/[0-9]*/comm; do sleep 0.1; done; cat /proc/1/comm']}
  - {name: other, image: IMAGE, command: [/testapp, forever]}`)
	pod := p.untilPhase("of-the-host", corev1.PodSucceeded)
	if pod.Status.PodIP != pod.Status.HostIP {
		p.Errorf("the pod's address is %s, the host's %s", pod.Status.PodIP, pod.Status.HostIP)
	}
	p.wantLog("of-the-host", "app", "agent-1\n", "fairlead agent", "\n1\n")
	p.until("together", "done", func(pod *corev1.Pod) bool { return containerStatus(pod, "app").State.Terminated != nil })
	p.wantLog("together", "app", "pause\n")
	p.kubectl("delete", "pod", "together", "--wait=false")
}

func privileges(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: confined}
spec:
  restartPolicy: Never
  securityContext:
    runAsUser: 1234
    runAsGroup: 2345
    supplementalGroups: [3456]
    fsGroup: 4567
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "99"}]
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: app
    image: IMAGE
    command: [sh, -c, 'id; grep -E "^(CapEff|CapBnd|NoNewPrivs|Seccomp):" /proc/self/status; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; touch /v/x; ls -ldn /v /v/x; touch /no || echo read-only']
    securityContext:
      runAsNonRoot: true
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
      seccompProfile: {type: RuntimeDefault}
    volumeMounts: [{name: v, mountPath: /v}]
---
apiVersion: v1
kind: Pod
metadata: {name: privileged}
spec:
  restartPolicy: Never
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'grep -E "^(CapEff|Seccomp):" /proc/self/status; test -c /dev/kmsg && echo devices'], securityContext: {privileged: true}}]
---
apiVersion: v1
kind: Pod
metadata: {name: unmasked}
spec:
  restartPolicy: Never
  containers: [{name: app, image: IMAGE, command: [sh, -c, 'unshare -U true && echo allowed'], securityContext: {seccompProfile: {type: Unconfined}}}]`)
	p.untilPhase("confined", corev1.PodSucceeded)
	p.wantLog("confined", "app", "uid=1234 gid=2345 groups=", "3456", "4567", "CapBnd:\t0000000000000400\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "\n99\n", "drwxrwsrwx", " 0        4567", "1234     4567", "read-only\n")
	p.untilPhase("privileged", corev1.PodSucceeded)
	p.wantLog("privileged", "app", "Seccomp:\t0\n", "devices\n")
	if log := p.kubectl("logs", "privileged"); strings.Contains(log, "CapEff:\t00000000a80425fb") {
		p.Errorf("a privileged container has the default capabilities: %s", log)
	}
	p.untilPhase("unmasked", corev1.PodSucceeded)
}

func refusals(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: root}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [id], securityContext: {runAsNonRoot: true}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unsafe}
spec: {securityContext: {sysctls: [{name: kernel.msgmax, value: "10000"}]}, containers: [{name: app, image: IMAGE, command: [id]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec: {nodeName: agent-1, containers: [{name: app, image: IMAGE, command: [id], resources: {requests: {cpu: "1000"}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere}
spec: {nodeName: agent-1, nodeSelector: {no: such}, containers: [{name: app, image: IMAGE, command: [id]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: profile}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: IMAGE, command: [id], securityContext: {seccompProfile: {type: Localhost, localhostProfile: none.json}}}]}`)
	if pod := p.untilWaiting("root", "CreateContainerConfigError"); !strings.Contains(pod.Status.ContainerStatuses[0].State.Waiting.Message, "runAsNonRoot") {
		p.Errorf("%+v", pod.Status.ContainerStatuses[0])
	}
	for name, reason := range map[string]string{"unsafe": "SysctlForbidden", "greedy": "OutOfcpu", "elsewhere": "NodeAffinity"} {
		if pod := p.untilPhase(name, corev1.PodFailed); pod.Status.Reason != reason {
			p.Errorf("%s: %s %s, want %s", name, pod.Status.Reason, pod.Status.Message, reason)
		}
	}
	p.wantEvent("profile", "Warning Failed", "none.json")
}

func userNamespaces(p pods) {
	p.apply(`
apiVersion: v1
kind: Pod
metadata: {name: own-users}
spec: {nodeName: agent-1, terminationGracePeriodSeconds: 1, hostUsers: false, containers: [{name: app, image: IMAGE, command: [sh, -c, 'cat /proc/self/uid_map; sleep 600']}]}`)
	able := kubectl(p.T, "get", "node", "agent-1", "-o", `jsonpath={.status.runtimeHandlers[?(@.name=="runc")].features.userNamespaces}`)
	if able != "true" {
		p.wantEvent("own-users", "Warning", "runc 1.2 or newer")
		return
	}
	p.untilReady("own-users")
	if log := strings.Fields(p.kubectl("logs", "own-users")); len(log) != 3 || log[0] != "0" || log[1] == "0" || log[2] != "65536" {
		p.Errorf("uid_map %q", log)
	}
}
