package main

import (
	"cmp"
	"context"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

// How long a container without a readiness probe may take to listen on one of the TCP ports that it declares, before it
// is called ready all the same. A real node would call it ready at once; tests are better off with a pod that answers.
const listenPatience = 2 * time.Second

// probe watches over one run of a container: startup first, then readiness and liveness side by side.
func (c *container) probe(ctx context.Context) {
	if startup := c.spec.StartupProbe; startup != nil {
		passed := false
		c.repeat(ctx, startup, func(good bool) bool {
			if !good {
				c.kill()
			}
			passed = good
			return false
		})
		if !passed || ctx.Err() != nil {
			return
		}
	}
	c.setUp()
	var both sync.WaitGroup
	both.Go(func() { c.probeReadiness(ctx) })
	if liveness := c.spec.LivenessProbe; liveness != nil {
		both.Go(func() {
			c.repeat(ctx, liveness, func(good bool) bool {
				if !good {
					c.kill()
				}
				return good
			})
		})
	}
	both.Wait()
}

func (c *container) probeReadiness(ctx context.Context) {
	if c.spec.ReadinessProbe == nil {
		c.waitListening(ctx)
		if ctx.Err() == nil {
			c.setReady(true)
		}
		return
	}
	c.repeat(ctx, c.spec.ReadinessProbe, func(good bool) bool {
		if ctx.Err() == nil {
			c.setReady(good)
		}
		return true
	})
}

func (c *container) waitListening(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, listenPatience)
	defer cancel()
	var ports []string
	for _, port := range c.spec.Ports {
		if port.Protocol == "" || port.Protocol == v1.ProtocolTCP {
			ports = append(ports, strconv.Itoa(int(port.ContainerPort)))
		}
	}
	for len(ports) > 0 && ctx.Err() == nil {
		for _, port := range ports {
			if connection, err := net.DialTimeout("tcp", net.JoinHostPort(c.pod.address(), port), time.Second); err == nil {
				connection.Close()
				return
			}
		}
		sleep(ctx, 20*time.Millisecond)
	}
}

// repeat probes until the context ends or tell returns false; tell hears of a state when a threshold is reached.
func (c *container) repeat(ctx context.Context, p *v1.Probe, tell func(good bool) bool) {
	period := time.Duration(cmp.Or(p.PeriodSeconds, 10)) * time.Second
	sleep(ctx, time.Duration(p.InitialDelaySeconds)*time.Second)
	good, bad := int32(0), int32(0)
	for ctx.Err() == nil {
		if c.probeOnce(ctx, p) {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
		}
		if ctx.Err() != nil {
			return
		}
		if good >= cmp.Or(p.SuccessThreshold, 1) && !tell(true) {
			return
		}
		if bad >= cmp.Or(p.FailureThreshold, 3) && !tell(false) {
			return
		}
		sleep(ctx, period)
	}
}

func (c *container) probeOnce(ctx context.Context, p *v1.Probe) bool {
	timeout := time.Duration(cmp.Or(p.TimeoutSeconds, 1)) * time.Second
	result := probe.Failure
	switch {
	case p.HTTPGet != nil:
		return c.probeHTTP(p.HTTPGet, timeout)
	case p.TCPSocket != nil:
		if port, err := probe.ResolveContainerPort(p.TCPSocket.Port, c.spec); err == nil {
			result, _, _ = tcpprobe.New().Probe(cmp.Or(p.TCPSocket.Host, c.pod.address()), port, timeout)
		}
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		result, _, _ = grpcprobe.New().Probe(c.pod.address(), service, int(p.GRPC.Port), timeout)
	case p.Exec != nil:
		running := c.current()
		if running == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return running.command(ctx, p.Exec.Command).Run() == nil
	}
	return result == probe.Success
}

func (c *container) probeHTTP(action *v1.HTTPGetAction, timeout time.Duration) bool {
	request, err := httpprobe.NewRequestForHTTPGetAction(action, c.spec, c.pod.address(), "probe")
	if err != nil {
		return false
	}
	result, _, _ := httpprobe.New(false).Probe(request, timeout)
	return result == probe.Success || result == probe.Warning
}

// kill ends a container that its probes gave up: SIGTERM, and SIGKILL after the pod's grace.
func (c *container) kill() {
	running := c.current()
	if running == nil {
		return
	}
	running.signal(syscall.SIGTERM)
	go func() {
		select {
		case <-running.ended:
		case <-time.After(c.pod.grace()):
			running.signal(syscall.SIGKILL)
		}
	}()
}
