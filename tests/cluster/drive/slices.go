package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// Of an EndpointSlice, as the controller makes them.
	perSlice = 100
	// Hosts of an Ingress.
	perIngress = 50
	// Requests to the API server at a time.
	atOnce = 16
)

func cluster() (kubernetes.Interface, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	// No limit of the client's own.
	config.QPS, config.RateLimiter = -1, nil
	// As most writers do; what the API server stores and lists is the same.
	config.ContentType = "application/vnd.kubernetes.protobuf"
	return kubernetes.NewForConfig(config)
}

func serviceName(number int) string { return fmt.Sprintf("s%d", number) }

// slice has a hundred endpoints that look as if pods stood behind them. Nothing leads to their addresses.
func slice(s settings, number int) *discoveryv1.EndpointSlice {
	ready, port, protocol, name := true, int32(3000), corev1.ProtocolTCP, ""
	one := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:   serviceName(number) + "-1",
			Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(number), discoveryv1.LabelManagedBy: "drive"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	for index := range perSlice {
		node := fmt.Sprintf("node-%d.example.com", index)
		zone := fmt.Sprintf("region-%d", index%3)
		one.Endpoints = append(one.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", number/250, number%250, index+1)},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
			NodeName:   &node,
			Zone:       &zone,
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: s.namespace, Name: fmt.Sprintf("%s-7d9f8b6c5-%05d", serviceName(number), index),
				UID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%06d%06d", number, index)),
			},
		})
	}
	return one
}

func headless(number int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName(number)},
		Spec:       corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

func hosts(s settings, from, to int) *networkingv1.Ingress {
	class, path := "weir", networkingv1.PathTypePrefix
	one := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("hosts-%d", from)},
		Spec:       networkingv1.IngressSpec{IngressClassName: &class},
	}
	for number := from; number < to; number++ {
		backend := networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
			Name: serviceName(number), Port: networkingv1.ServiceBackendPort{Number: 80}}}
		one.Spec.Rules = append(one.Spec.Rules, networkingv1.IngressRule{
			Host: fmt.Sprintf(s.host, number),
			IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &path, Backend: backend}}}},
		})
	}
	return one
}

// manySlices makes Services, each with a hundred endpoints and a host, many at a time.
func manySlices(ctx context.Context, s settings) (bool, error) {
	client, err := cluster()
	if err != nil {
		return false, err
	}
	begin := time.Now()
	var lock sync.Mutex
	failed := map[string]int{}
	count := func(err error) {
		if err == nil {
			return
		}
		lock.Lock()
		defer lock.Unlock()
		failed[err.Error()]++
	}
	var running sync.WaitGroup
	numbers := make(chan int)
	for range atOnce {
		running.Add(1)
		go func() {
			defer running.Done()
			for number := range numbers {
				if number%perIngress == 0 {
					one := hosts(s, number, min(number+perIngress, s.hosts))
					_, err := client.NetworkingV1().Ingresses(s.namespace).Create(ctx, one, metav1.CreateOptions{})
					count(err)
				}
				_, err := client.CoreV1().Services(s.namespace).Create(ctx, headless(number), metav1.CreateOptions{})
				count(err)
				_, err = client.DiscoveryV1().EndpointSlices(s.namespace).Create(ctx, slice(s, number), metav1.CreateOptions{})
				count(err)
			}
		}()
	}
	for number := range s.hosts {
		numbers <- number
	}
	close(numbers)
	running.Wait()
	for _, problem := range sorted(failed) {
		fmt.Fprintf(os.Stderr, "  %d times: %s\n", failed[problem], problem)
	}
	fmt.Printf("%d Services with %d endpoints are made in %.1f s\n", s.hosts, s.hosts*perSlice, time.Since(begin).Seconds())
	return len(failed) == 0, nil
}

// change gives some Services, one after the other, the one endpoint that answers, and measures from the API server's
// answer until it serves what was a hundred dead addresses before.
func change(ctx context.Context, s settings) (bool, error) {
	client, err := cluster()
	if err != nil {
		return false, err
	}
	weir := newTarget(s.targets[0])
	sum := newTally()
	token := int64(0)
	for _, text := range s.numbers {
		var number int
		if _, err := fmt.Sscan(text, &number); err != nil {
			return false, err
		}
		// The others stay, so that it is as much to tell as before.
		one, no := slice(s, number), false
		for index := range one.Endpoints {
			one.Endpoints[index].Conditions.Ready, one.Endpoints[index].Conditions.Serving = &no, &no
		}
		one.Endpoints[perSlice-1].Addresses, one.Endpoints[perSlice-1].Conditions = []string{s.address}, discoveryv1.EndpointConditions{}
		if _, err := client.DiscoveryV1().EndpointSlices(s.namespace).Update(ctx, one, metav1.UpdateOptions{}); err != nil {
			return false, err
		}
		from, host := time.Now(), fmt.Sprintf(s.host, number)
		problem := "not served within a minute"
		for time.Since(from) < served && ctx.Err() == nil {
			token++
			got := weir.ask(ctx, host, token)
			if got.problem == "" {
				problem = ""
				if got.echo.Service != s.services[0] {
					problem = "answered by " + got.echo.Service
				}
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
		sum.record(time.Since(from), host, problem)
	}
	return sum.tell("slices changed to " + s.address + " at " + strings.Join(s.targets, " ")), nil
}
