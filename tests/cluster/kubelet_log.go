package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// How much of a run's output is kept; of more, the older half goes.
const logBytes = 8 << 20

// logbook is the output of one run of a container.
type logbook struct {
	mu      sync.Mutex
	lines   []logLine
	dropped int // lines that were here before lines[0]
	bytes   int
	closed  bool
	// Closed, and replaced, when there is more to read.
	more chan struct{}
}

type logLine struct {
	at   time.Time
	text string
}

func newLogbook() *logbook { return &logbook{more: make(chan struct{})} }

func (b *logbook) add(at time.Time, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, logLine{at, text})
	b.bytes += len(text)
	if b.bytes > logBytes {
		half := len(b.lines) / 2
		for _, line := range b.lines[:half] {
			b.bytes -= len(line.text)
		}
		b.dropped += half
		b.lines = append([]logLine(nil), b.lines[half:]...)
	}
	close(b.more)
	b.more = make(chan struct{})
}

func (b *logbook) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	close(b.more)
	b.more = make(chan struct{})
}

// after gives the lines from number `from` on, the number of the next one, and the channel that tells of more; nil when
// there will be none.
func (b *logbook) after(from int) ([]logLine, int, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	start := min(max(from-b.dropped, 0), len(b.lines))
	lines := append([]logLine(nil), b.lines[start:]...)
	next := b.dropped + len(b.lines)
	if b.closed {
		return lines, next, nil
	}
	return lines, next, b.more
}

// logQuery is what `kubectl logs` can ask for.
type logQuery struct {
	follow, previous, timestamps bool
	since                        time.Time
	tail                         int   // lines from the end; negative: all
	limit                        int64 // bytes; 0: no limit
}

func parseLogQuery(values url.Values, now time.Time) (logQuery, error) {
	q := logQuery{tail: -1}
	var err error
	flag := func(name string) bool {
		text := values.Get(name)
		on, fault := strconv.ParseBool(text)
		if text != "" && fault != nil {
			err = fmt.Errorf("%s is '%s'; it is true or false", name, text)
		}
		return on
	}
	number := func(name string, otherwise int) int {
		text := values.Get(name)
		if text == "" {
			return otherwise
		}
		n, fault := strconv.Atoi(text)
		if fault != nil {
			err = fmt.Errorf("%s is '%s'; it is a number", name, text)
		}
		return n
	}
	q.follow, q.previous, q.timestamps = flag("follow"), flag("previous"), flag("timestamps")
	q.tail, q.limit = number("tailLines", -1), int64(number("limitBytes", 0))
	if seconds := number("sinceSeconds", 0); seconds > 0 {
		q.since = now.Add(-time.Duration(seconds) * time.Second)
	}
	if text := values.Get("sinceTime"); text != "" {
		since, fault := time.Parse(time.RFC3339Nano, text)
		if fault != nil {
			err = fmt.Errorf("sinceTime is '%s'; it is a time of RFC 3339", text)
		}
		q.since = since
	}
	return q, err
}

// write copies what the query asks for; with follow until the run ends or the reader goes.
func (b *logbook) write(ctx context.Context, w http.ResponseWriter, q logQuery) {
	lines, next, more := b.after(0)
	chosen := lines[:0]
	for _, line := range lines {
		if !line.at.Before(q.since) {
			chosen = append(chosen, line)
		}
	}
	if q.tail >= 0 && len(chosen) > q.tail {
		chosen = chosen[len(chosen)-q.tail:]
	}
	left := q.limit
	for {
		for _, line := range chosen {
			text := line.text + "\n"
			if q.timestamps {
				text = line.at.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") + " " + text
			}
			if q.limit > 0 {
				text = text[:min(int64(len(text)), left)]
				left -= int64(len(text))
			}
			if _, err := io.WriteString(w, text); err != nil || q.limit > 0 && left == 0 {
				return
			}
		}
		if !q.follow || more == nil {
			return
		}
		http.NewResponseController(w).Flush()
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
		chosen, next, more = b.after(next)
	}
}
