package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// An answer that takes longer has failed.
const patience = 5 * time.Second

// target is one Weir. Its requests share connections, but for every tenth.
type target struct {
	address, ready string
	up             atomic.Bool
	kept, fresh    *http.Client
}

func newTarget(text string) *target {
	address, ready, _ := strings.Cut(text, ",")
	dialer := &net.Dialer{Timeout: patience}
	transport := func(fresh bool) *http.Client {
		return &http.Client{
			Timeout: patience,
			Transport: &http.Transport{
				DialContext:         dialer.DialContext,
				DisableKeepAlives:   fresh,
				DisableCompression:  true,
				MaxIdleConnsPerHost: 64,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	t := &target{address: address, ready: ready, kept: transport(false), fresh: transport(true)}
	t.up.Store(ready == "")
	return t
}

// watch asks for readiness as a load balancer in front of replicas does.
func (t *target) watch(ctx context.Context) {
	for ctx.Err() == nil && t.ready != "" {
		t.look(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (t *target) look(ctx context.Context) {
	if t.ready == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, t.ready, nil)
	if err != nil {
		return
	}
	answer, err := t.fresh.Do(request)
	if err != nil {
		t.up.Store(false)
		return
	}
	answer.Body.Close()
	t.up.Store(answer.StatusCode == http.StatusOK)
}

// echo is what the backends tell of a request.
type echo struct {
	Path    string              `json:"path"`
	Host    string              `json:"host"`
	Service string              `json:"service"`
	Headers map[string][]string `json:"headers"`
}

// answer is what came of a request: a status and the echo, or in problem what went wrong.
type answer struct {
	status  int
	echo    echo
	problem string
}

// ask sends a request with a token of its own, and reads all of the answer.
func (t *target) ask(ctx context.Context, host string, token int64) answer {
	path := fmt.Sprintf("/?token=%d", token)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.address+path, nil)
	if err != nil {
		return answer{problem: err.Error()}
	}
	request.Host = host
	client := t.kept
	if token%10 == 0 {
		client = t.fresh
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{problem: reason(err)}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{status: response.StatusCode, problem: "body: " + reason(err)}
	}
	if response.StatusCode != http.StatusOK {
		return answer{status: response.StatusCode, problem: fmt.Sprintf("status %d", response.StatusCode)}
	}
	var told echo
	if json.Unmarshal(body, &told) != nil {
		return answer{status: response.StatusCode, problem: "an answer that is no echo"}
	}
	if told.Path != path || told.Host != host {
		return answer{status: response.StatusCode, echo: told, problem: "the answer of another request"}
	}
	return answer{status: response.StatusCode, echo: told}
}

// reason is an error without what differs from request to request.
func reason(err error) string {
	text := err.Error()
	if at := strings.LastIndex(text, "\": "); at >= 0 {
		text = text[at+3:]
	}
	for _, part := range []string{"i/o timeout", "Client.Timeout", "connection refused", "connection reset", "EOF"} {
		if strings.Contains(text, part) {
			return part
		}
	}
	return text
}
