package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// manner is how what is said to the client is passed on. What the client says is passed on at once.
type manner struct {
	// As it stands in the file: a new one begins when it differs.
	text string
	// Nothing is: connections are cut, and new ones are closed at once.
	closed bool
	// Bytes per second of each connection; 0: as many as come.
	rate int
	// Before each piece that comes after a silence.
	delay time.Duration
	// Each connection ends after at most so many bytes from the moment on at which this was said; 0: does not.
	cut int
}

// readManner reads for example "rate=100000 delay=200ms", "cut=30000" or "closed".
func readManner(text string) (*manner, error) {
	m := &manner{text: text}
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "closed":
			m.closed = true
		case "rate":
			m.rate, err = strconv.Atoi(value)
		case "cut":
			m.cut, err = strconv.Atoi(value)
		case "delay":
			m.delay, err = time.ParseDuration(value)
		default:
			err = fmt.Errorf("%q is none of closed, rate, delay, cut", word)
		}
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

// between passes connections on, in the manner that a file says at the moment; without the file, as they are.
func between(ctx context.Context, s settings) error {
	var now atomic.Pointer[manner]
	now.Store(&manner{})
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	go func() {
		for ctx.Err() == nil {
			content, _ := os.ReadFile(s.manner)
			if text := strings.TrimSpace(string(content)); text != now.Load().text {
				m, err := readManner(text)
				if err != nil {
					fmt.Fprintf(os.Stderr, "drive: %s: %v\n", s.manner, err)
					os.Exit(2)
				}
				now.Store(m)
			}
			time.Sleep(20 * time.Millisecond)
		}
		listener.Close()
	}()
	for {
		client, err := listener.Accept()
		if err != nil {
			return nil
		}
		if now.Load().closed {
			client.Close()
			continue
		}
		go pass(client.(*net.TCPConn), s.targets[0], &now)
	}
}

func pass(client *net.TCPConn, to string, now *atomic.Pointer[manner]) {
	defer client.Close()
	dialed, err := net.DialTimeout("tcp", to, patience)
	if err != nil {
		return
	}
	server := dialed.(*net.TCPConn)
	defer server.Close()
	// Little is read ahead, so that the other side notices how slow this one is.
	server.SetReadBuffer(32 << 10)
	go func() {
		io.Copy(server, client)
		server.CloseWrite()
	}()
	buffer := make([]byte, 4<<10)
	known, left, spoke := &manner{}, 0, time.Now()
	for {
		// Now and then, to see that it has been told to end.
		server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		count, err := server.Read(buffer)
		m := now.Load()
		if m != known {
			known = m
			if m.cut > 0 {
				left = 1 + rand.IntN(m.cut)
			}
		}
		if m.closed {
			return
		}
		if timeout, ok := err.(net.Error); err != nil && !(ok && timeout.Timeout()) {
			return
		}
		if count == 0 {
			continue
		}
		piece := buffer[:count]
		if m.cut > 0 && count >= left {
			client.Write(piece[:left])
			if left%2 == 0 {
				client.SetLinger(0)
			}
			return
		}
		left -= count
		if m.delay > 0 && time.Since(spoke) > m.delay {
			time.Sleep(m.delay)
		}
		if m.rate > 0 {
			time.Sleep(time.Duration(count) * time.Second / time.Duration(m.rate))
		}
		if _, err := client.Write(piece); err != nil {
			return
		}
		spoke = time.Now()
	}
}
