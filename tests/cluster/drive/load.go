package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// tally counts requests, what went wrong with them, and how long they took.
type tally struct {
	sync.Mutex
	took   []time.Duration
	failed map[string]int
	// The first failure of each kind, with its time, to be looked up in Weir's log.
	first map[string]string
}

func newTally() *tally { return &tally{failed: map[string]int{}, first: map[string]string{}} }

// add counts a request; from is when it was due, so that a wait before sending counts too.
func (t *tally) add(from time.Time, host, problem string) {
	took := time.Since(from)
	if problem == "" && took > patience {
		problem = "longer than 5 s"
	}
	t.record(took, host, problem)
}

// record counts something that took so long, however long that is.
func (t *tally) record(took time.Duration, host, problem string) {
	t.Lock()
	defer t.Unlock()
	t.took = append(t.took, took)
	if problem != "" {
		t.failed[problem]++
		if t.first[problem] == "" {
			t.first[problem] = host + " at " + time.Now().UTC().Format("15:04:05.000")
		}
	}
}

// tell prints the sum, and is true when nothing failed.
func (t *tally) tell(what string) bool {
	t.Lock()
	defer t.Unlock()
	failed := 0
	for _, count := range t.failed {
		failed += count
	}
	fmt.Printf("%s: %d requests, %d failed; %s\n", what, len(t.took), failed, quantiles(t.took))
	for _, problem := range sorted(t.failed) {
		fmt.Fprintf(os.Stderr, "  %d times: %s (first: %s)\n", t.failed[problem], problem, t.first[problem])
	}
	return failed == 0 && len(t.took) > 0
}

func sorted(counts map[string]int) []string {
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func quantiles(times []time.Duration) string {
	if len(times) == 0 {
		return "no times"
	}
	ordered := slices.Clone(times)
	slices.Sort(ordered)
	at := func(share float64) string {
		took := ordered[min(len(ordered)-1, int(share*float64(len(ordered))))]
		return fmt.Sprintf("%.1f ms", float64(took.Microseconds())/1000)
	}
	return fmt.Sprintf("p50 %s, p99 %s, worst %s", at(0.5), at(0.99), at(1))
}

// load sends requests at an even rate until it is told to end. Each has to be answered by the right Service.
func load(ctx context.Context, s settings) (bool, error) {
	var targets []*target
	watching, enough := context.WithCancel(context.Background())
	defer enough()
	for _, text := range s.targets {
		t := newTarget(text)
		t.look(watching)
		go t.watch(watching)
		targets = append(targets, t)
	}
	sum := newTally()
	pace(ctx, s.rate, func(number int64, due time.Time) {
		host, services := s.host, s.services
		if s.hosts > 1 {
			chosen := rand.IntN(s.hosts)
			host = fmt.Sprintf(s.host, chosen)
			services = s.services[chosen%len(s.services):][:1]
		}
		to := next(targets, number)
		if to == nil {
			sum.add(due, host, "no target is ready")
			return
		}
		// What was begun is waited for, also after the end was asked for.
		got := to.ask(context.Background(), host, number)
		if got.problem == "" && !slices.Contains(services, got.echo.Service) {
			got.problem = "answered by " + got.echo.Service + " instead of " + strings.Join(services, " or ")
		}
		sum.add(due, host, got.problem)
	})
	return sum.tell("load"), nil
}

// next gives the targets that are ready their turn.
func next(targets []*target, number int64) *target {
	for step := range targets {
		if t := targets[(int(number)+step)%len(targets)]; t.up.Load() {
			return t
		}
	}
	return nil
}

// pace calls at an even rate, each call in a task of its own, until the end, and waits for all of them.
func pace(ctx context.Context, rate float64, call func(number int64, due time.Time)) {
	var running sync.WaitGroup
	begin := time.Now()
	for number := int64(1); ; number++ {
		due := begin.Add(time.Duration(float64(number) / rate * float64(time.Second)))
		select {
		case <-ctx.Done():
			running.Wait()
			return
		case <-time.After(time.Until(due)):
		}
		running.Add(1)
		go func() {
			defer running.Done()
			call(number, due)
		}()
	}
}
