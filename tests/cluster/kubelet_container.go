package main

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// How long a container that ended waits for its next start: doubled each time from the first to the last. Shorter than a
// real node's ten seconds to five minutes, for tests to see both sides of it.
const (
	firstBackoff = 500 * time.Millisecond
	lastBackoff  = 10 * time.Second
)

// container is one container of a pod, through all its restarts.
type container struct {
	pod  *pod
	spec *v1.Container
	init bool
	// Ended by end(), for a sidecar that has to go after the main containers.
	ending   context.Context
	endNow   context.CancelFunc
	launched bool
	done     chan struct{}
	started  chan struct{}
	once     sync.Once

	mu       sync.Mutex
	process  *process // running
	state    v1.ContainerState
	last     v1.ContainerState
	restarts int32
	ready    bool
	isUp     bool // the startup probe has passed, or there is none
	logs     []*logbook
}

func newContainer(p *pod, spec *v1.Container, init bool) *container {
	c := &container{pod: p, spec: spec, init: init, done: make(chan struct{}), started: make(chan struct{})}
	c.state.Waiting = &v1.ContainerStateWaiting{Reason: "PodInitializing"}
	if init || len(p.object.Spec.InitContainers) == 0 {
		c.state.Waiting.Reason = "ContainerCreating"
	}
	c.ending, c.endNow = context.WithCancel(context.Background())
	return c
}

func (c *container) sidecar() bool {
	return c.init && c.spec.RestartPolicy != nil && *c.spec.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// restartsAfter says whether the container is to run again after this exit.
func (c *container) restartsAfter(exit int32) bool {
	policy := c.pod.latest().Spec.RestartPolicy
	switch {
	case c.sidecar():
		return true
	case c.init:
		return exit != 0 && policy != v1.RestartPolicyNever
	case policy == v1.RestartPolicyAlways:
		return true
	default:
		return exit != 0 && policy == v1.RestartPolicyOnFailure
	}
}

// live runs the container, again and again where its policy says so, until stop ends.
func (c *container) live(stop context.Context) {
	defer close(c.done)
	stop, cancel := context.WithCancel(stop)
	defer cancel()
	context.AfterFunc(c.ending, cancel)
	backoff := firstBackoff
	for stop.Err() == nil {
		begin := time.Now()
		exit, ran := c.runOnce(stop)
		if stop.Err() != nil || ran && !c.restartsAfter(exit) {
			return
		}
		if time.Since(begin) > 2*lastBackoff {
			backoff = firstBackoff
		}
		if ran {
			c.setWaiting("CrashLoopBackOff", fmt.Sprintf("back-off %v restarting container %s", backoff, c.spec.Name))
		}
		sleep(stop, backoff)
		backoff = min(2*backoff, lastBackoff)
		if ran && stop.Err() == nil {
			c.mu.Lock()
			c.restarts++
			c.mu.Unlock()
		}
	}
}

// runOnce starts the container and waits for its end; ran is false where it could not be started.
func (c *container) runOnce(stop context.Context) (exit int32, ran bool) {
	plan, reason, err := c.plan(stop)
	if err != nil {
		c.setWaiting(reason, err.Error())
		return 0, false
	}
	book := newLogbook()
	running, err := startProcess(plan, book)
	if err != nil {
		c.setWaiting("RunContainerError", err.Error())
		return 0, false
	}
	c.setRunning(running, book)
	probes, stopProbes := context.WithCancel(context.Background())
	go c.probe(probes)
	select {
	case <-running.ended:
	case <-stop.Done():
		c.terminate(running)
	}
	stopProbes()
	return c.setTerminated(running), true
}

// terminate asks the process to end, waits for the pod's grace and then ends it.
func (c *container) terminate(running *process) {
	late := time.After(c.pod.grace())
	c.preStop(running)
	running.signal(syscall.SIGTERM)
	for {
		select {
		case <-running.ended:
			return
		case <-late:
			running.signal(syscall.SIGKILL)
			<-running.ended
			return
		case <-c.pod.gone.Done():
			running.signal(syscall.SIGKILL)
			<-running.ended
			return
		}
	}
}

// preStop runs the hook; its time counts towards the grace.
func (c *container) preStop(running *process) {
	if c.spec.Lifecycle == nil || c.spec.Lifecycle.PreStop == nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.pod.gone, c.pod.grace())
	defer cancel()
	hook := c.spec.Lifecycle.PreStop
	switch {
	case hook.Sleep != nil:
		select {
		case <-running.ended:
		case <-ctx.Done():
		case <-time.After(time.Duration(hook.Sleep.Seconds) * time.Second):
		}
	case hook.Exec != nil:
		running.command(ctx, hook.Exec.Command).Run()
	case hook.HTTPGet != nil:
		c.probeHTTP(hook.HTTPGet, 5*time.Second)
	}
}

// end stops the container and waits for it.
func (c *container) end() {
	c.endNow()
	<-c.done
}

// waitStarted waits until the container runs and its startup probe has passed.
func (c *container) waitStarted(stop context.Context) bool {
	select {
	case <-c.started:
		return true
	case <-stop.Done():
		return false
	}
}

func (c *container) succeeded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Terminated != nil && c.state.Terminated.ExitCode == 0
}

func (c *container) current() *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.process
}

func (c *container) setWaiting(reason, message string) {
	c.mu.Lock()
	if c.state.Terminated != nil {
		c.last = c.state
	}
	c.state = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}
	c.mu.Unlock()
	c.pod.change()
}

func (c *container) setRunning(running *process, book *logbook) {
	c.mu.Lock()
	c.process, c.ready, c.isUp = running, false, false
	c.state = v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(running.startedAt)}}
	c.logs = append(c.logs, book)
	// As on a node: the log of the run before is kept, older ones are not.
	if len(c.logs) > 2 {
		c.logs = c.logs[1:]
	}
	c.mu.Unlock()
	c.pod.change()
}

func (c *container) setTerminated(running *process) int32 {
	exit, reason := running.exit, "Completed"
	if exit != 0 {
		reason = "Error"
	}
	c.mu.Lock()
	c.process, c.ready, c.isUp = nil, false, false
	c.state = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		ExitCode: exit, Signal: running.signalled, Reason: reason, ContainerID: running.id,
		StartedAt: metav1.NewTime(running.startedAt), FinishedAt: metav1.NewTime(running.finishedAt),
	}}
	c.mu.Unlock()
	c.pod.change()
	return exit
}

func (c *container) setReady(ready bool) {
	c.mu.Lock()
	changed := c.ready != ready
	c.ready = ready
	c.mu.Unlock()
	if changed {
		c.pod.change()
	}
}

func (c *container) setUp() {
	c.mu.Lock()
	c.isUp = true
	c.mu.Unlock()
	c.once.Do(func() { close(c.started) })
	c.pod.change()
}
