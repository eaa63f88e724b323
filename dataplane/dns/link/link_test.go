// SPDX-License-Identifier: Apache-2.0

package link

import (
	"encoding/binary"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns the two ends of a connection.
func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return ends[0], ends[1]
}

// descriptors counts those of this process.
func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestWhatIsSentArrives(t *testing.T) {
	a, b := pair(t)
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	f, err := udp.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sent := Hello{Protocol: Protocol, Build: "x", Complete: true, PID: 7, Settings: &Settings{Domain: "cluster.local", Listen: []netip.Addr{netip.MustParseAddr("fd00::1")}, Port: 53}}
	if err := Send(a, sent, []*os.File{f, f}); err != nil {
		t.Fatal(err)
	}
	var got Hello
	files, err := Receive(b, &got)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(files)
	if !reflect.DeepEqual(got, sent) || len(files) != 2 {
		t.Fatalf("received %+v and %d files, want %+v and 2", got, len(files), sent)
	}
	same, err := net.FilePacketConn(files[1])
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	if same.LocalAddr().String() != udp.LocalAddr().String() {
		t.Errorf("a socket of %s arrived, want one of %s", same.LocalAddr(), udp.LocalAddr())
	}
}

// FuzzReceive sends bytes, in two parts and with a descriptor, to a receiver, which must end with what they say or an error, hold no more memory than its bound and no descriptor.
func FuzzReceive(f *testing.F) {
	whole := func(v any) []byte {
		body, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	f.Add(whole(Hello{Protocol: Protocol, Settings: &Settings{Domain: "cluster.local", Listen: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}), 2, true)
	f.Add(whole(Start{Corefile: ". {\n}\n"}), 0, false)
	f.Add([]byte{0, 0, 0, 0}, 3, true)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '{'}, 1, true)
	f.Add([]byte{0, 0, 0, 9, '{', '}'}, 5, false)
	f.Add([]byte{}, 0, true)
	null, err := os.Open(os.DevNull)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { null.Close() })
	f.Fuzz(func(t *testing.T, data []byte, split int, withFile bool) {
		if len(data) > 64<<10 {
			t.Skip("more than a socket holds for nobody")
		}
		a, b := pair(t)
		before := descriptors(t)
		var rights []byte
		if withFile {
			rights = unix.UnixRights(int(null.Fd()))
		}
		at := 0
		if len(data) > 0 {
			at = int(uint(split) % uint(len(data)+1))
		}
		if at > 0 {
			if _, _, err := a.WriteMsgUnix(data[:at], rights, nil); err != nil {
				t.Fatal(err)
			}
		}
		if at < len(data) {
			if _, err := a.Write(data[at:]); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = b.SetReadDeadline(time.Now().Add(10 * time.Second)) // a socket has deadlines
		var hello Hello
		files, err := Receive(b, &hello)
		valid := len(data) >= 4 && int(binary.BigEndian.Uint32(data)) <= len(data)-4 && json.Unmarshal(data[4:][:binary.BigEndian.Uint32(data)], new(Hello)) == nil
		if (err == nil) != valid {
			t.Errorf("%q, %d first: %v, want an error: %t", data, at, err, !valid)
		}
		if os.IsTimeout(err) {
			t.Errorf("%q, %d first: waits for more than there is", data, at)
		}
		if err == nil && at >= 4 && (len(files) == 1) != withFile {
			t.Errorf("%d files, want one: %t", len(files), withFile)
		}
		Close(files)
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors, %d before", after, before)
		}
	})
}
