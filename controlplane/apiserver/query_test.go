// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/url"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestDecodeQuery(t *testing.T) {
	for _, test := range []struct {
		name, query string
		out, want   any
	}{
		{"flags and numbers", "follow=true&previous=0&tailLines=10&container=main&unknown=1", &corev1.PodLogOptions{},
			&corev1.PodLogOptions{Follow: true, TailLines: ptr.To(int64(10)), Container: "main"}},
		{"a flag without value means true", "follow", &corev1.PodLogOptions{}, &corev1.PodLogOptions{Follow: true}},
		{"a command of several words", "command=sh&command=-c&command=echo+a,b&stdin=1&tty=TRUE", &corev1.PodExecOptions{},
			&corev1.PodExecOptions{Command: []string{"sh", "-c", "echo a,b"}, Stdin: true, TTY: true}},
		{"ports in both spellings", "ports=80,443&ports=8080", &corev1.PodPortForwardOptions{}, &corev1.PodPortForwardOptions{Ports: []int32{80, 443, 8080}}},
		{"a path", "path=/a%2Fb", &corev1.NodeProxyOptions{}, &corev1.NodeProxyOptions{Path: "/a/b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			values, err := url.ParseQuery(test.query)
			if err != nil {
				t.Fatal(err)
			}
			if err := decodeQuery(values, test.out); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(test.out, test.want) {
				t.Errorf("got %+v, want %+v", test.out, test.want)
			}
		})
	}
	for _, query := range []string{"tailLines=x", "sinceTime=yesterday", "limitBytes=99999999999999999999"} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if err := decodeQuery(values, &corev1.PodLogOptions{}); err == nil {
			t.Errorf("%s is no error", query)
		}
	}
}

func FuzzDecodeQuery(f *testing.F) {
	for _, seed := range []string{"follow", "tailLines=1&sinceTime=2026-01-01T00:00:00Z", "command=a&command=b", "ports=1,2,,", "ports=99999999999", "stream=All", "a=%ff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for _, out := range []any{&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodPortForwardOptions{}, &corev1.ServiceProxyOptions{}} {
			_ = decodeQuery(values, out) // an error or a value, no panic
		}
	})
}
