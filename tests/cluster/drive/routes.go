package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// Every route names itself in a header that its backend echoes, so that another route's answer is not taken for its own.
const mark = "X-Route"

// A route that is not served after so long never will be.
const served = time.Minute

func httpRoute(s settings, number int) *unstructured.Unstructured {
	name := fmt.Sprintf("r%d", number)
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1",
		"kind":       "HTTPRoute",
		"metadata":   map[string]any{"name": name, "namespace": s.namespace},
		"spec": map[string]any{
			"parentRefs": []any{map[string]any{"name": s.gateway}},
			"hostnames":  []any{fmt.Sprintf(s.host, number)},
			"rules": []any{map[string]any{
				"filters": []any{map[string]any{
					"type":                  "RequestHeaderModifier",
					"requestHeaderModifier": map[string]any{"set": []any{map[string]any{"name": mark, "value": name}}},
				}},
				"backendRefs": []any{map[string]any{"name": s.services[number%len(s.services)], "port": int64(80)}},
			}},
		},
	}}
}

// routes makes HTTPRoutes at an even rate, measures for each how long it takes from the API server's answer until Weir
// serves it, and asks meanwhile for those that were served before: they have to stay right.
func routes(ctx context.Context, s settings) (bool, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return false, err
	}
	// No limit of the client's own.
	config.QPS, config.RateLimiter = -1, nil
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return false, err
	}
	kind := schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}
	weir := newTarget(s.targets[0])
	objects := client.Resource(kind).Namespace(s.namespace)
	seen, err := watchNames(ctx, objects)
	if err != nil {
		return false, err
	}

	// Known routes: those that were served once.
	var lock sync.RWMutex
	var known []int
	var tokens atomic.Int64
	sum := newTally()
	checking, enough := context.WithCancel(ctx)
	defer enough()
	var checks sync.WaitGroup
	checks.Add(1)
	go func() {
		defer checks.Done()
		pace(checking, 300, func(_ int64, due time.Time) {
			lock.RLock()
			if len(known) == 0 {
				lock.RUnlock()
				return
			}
			number := known[rand.IntN(len(known))]
			lock.RUnlock()
			host := fmt.Sprintf(s.host, number)
			sum.add(due, host, wrong(s, number, weir.ask(context.Background(), host, tokens.Add(1))))
		})
	}()

	times := newTally()
	created := make([]time.Time, s.hosts)
	limit, done := context.WithCancel(ctx)
	defer done()
	begin := time.Now()
	pace(limit, s.rate, func(ordinal int64, _ time.Time) {
		number := int(ordinal) - 1
		if number >= s.hosts {
			done()
			return
		}
		if number == s.hosts-1 {
			done()
		}
		host := fmt.Sprintf(s.host, number)
		if _, err := objects.Create(ctx, httpRoute(s, number), metav1.CreateOptions{}); err != nil {
			times.add(time.Now(), host, "not created: "+err.Error())
			return
		}
		from := time.Now()
		created[number] = from
		problem := "not served within a minute"
		for time.Since(from) < served && ctx.Err() == nil {
			got := weir.ask(context.Background(), host, tokens.Add(1))
			if got.status == 404 {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			problem = wrong(s, number, got)
			break
		}
		times.record(time.Since(from), host, problem)
		if problem == "" {
			lock.Lock()
			known = append(known, number)
			lock.Unlock()
		}
	})
	made := time.Since(begin)
	// The last ones are looked at too.
	time.Sleep(time.Second)
	enough()
	checks.Wait()
	if len(times.took) != s.hosts {
		return false, errors.New("not all routes were made in time")
	}
	wrongOnes := 0
	for _, problem := range sorted(times.failed) {
		wrongOnes += times.failed[problem]
		fmt.Fprintf(os.Stderr, "  %d times: %s (last: %s)\n", times.failed[problem], problem, times.first[problem])
	}
	fmt.Printf("%d routes in %.0f s, %d wrong; from created to served: %s\n", s.hosts, made.Seconds(), wrongOnes, quantiles(times.took))
	var told []time.Duration
	for number, from := range created {
		if at, known := seen.Load(fmt.Sprintf("r%d", number)); known {
			told = append(told, max(0, at.(time.Time).Sub(from)))
		}
	}
	fmt.Printf("of which until the API server has told another watch: %s\n", quantiles(told))
	return sum.tell("routes that were there before") && wrongOnes == 0, nil
}

// watchNames notes when a watch of the driver's own sees each object being made: what comes late there comes late to
// everyone, and is not Weir's.
func watchNames(ctx context.Context, objects dynamic.ResourceInterface) (*sync.Map, error) {
	events, err := objects.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	seen := new(sync.Map)
	go func() {
		for event := range events.ResultChan() {
			if object, is := event.Object.(*unstructured.Unstructured); is && event.Type == watch.Added {
				seen.Store(object.GetName(), time.Now())
			}
		}
	}()
	return seen, nil
}

// wrong says what is wrong with a route's answer.
func wrong(s settings, number int, got answer) string {
	if got.problem != "" {
		return got.problem
	}
	if name := fmt.Sprintf("r%d", number); len(got.echo.Headers[mark]) != 1 || got.echo.Headers[mark][0] != name {
		return "another route has answered"
	}
	if service := s.services[number%len(s.services)]; got.echo.Service != service {
		return "answered by " + got.echo.Service + " instead of " + service
	}
	return ""
}
