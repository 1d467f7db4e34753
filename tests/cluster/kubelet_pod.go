package main

import (
	"context"
	"log"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pod is one pod on this node, from the first time it is seen until its object is gone.
type pod struct {
	kubelet *kubelet
	folder  string

	mu     sync.Mutex
	object *v1.Pod // the latest version seen
	ip     netip.Addr
	// Why the pod's containers do not start yet; empty: nothing is in the way.
	trouble    string
	init, main []*container
	initDone   bool
	startedAt  metav1.Time

	// Asked to end: the object has a deletionTimestamp.
	stop    context.Context
	stopNow context.CancelFunc
	// May not wait any longer: the object is gone.
	gone    context.Context
	goneNow context.CancelFunc
	// A token here says that the status may have changed.
	changed chan struct{}
}

func newPod(k *kubelet, object *v1.Pod) *pod {
	p := &pod{kubelet: k, object: object, folder: filepath.Join(podFolder, string(object.UID)), changed: make(chan struct{}, 1), startedAt: metav1.Now()}
	p.gone, p.goneNow = context.WithCancel(context.Background())
	p.stop, p.stopNow = context.WithCancel(p.gone)
	for i := range object.Spec.InitContainers {
		p.init = append(p.init, newContainer(p, &object.Spec.InitContainers[i], true))
	}
	for i := range object.Spec.Containers {
		p.main = append(p.main, newContainer(p, &object.Spec.Containers[i], false))
	}
	return p
}

func (p *pod) latest() *v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.object
}

func (p *pod) see(object *v1.Pod) {
	p.mu.Lock()
	p.object = object
	p.mu.Unlock()
	if object.DeletionTimestamp != nil {
		p.stopNow()
	}
	p.change()
}

// vanish: the object is gone.
func (p *pod) vanish() {
	p.stopNow()
	p.goneNow()
}

// change says that the status may have changed.
func (p *pod) change() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// grace is how long the containers may take to end.
func (p *pod) grace() time.Duration {
	object := p.latest()
	seconds := object.DeletionGracePeriodSeconds
	if seconds == nil {
		seconds = object.Spec.TerminationGracePeriodSeconds
	}
	if seconds == nil {
		return 30 * time.Second
	}
	return time.Duration(*seconds) * time.Second
}

func (p *pod) live(ctx context.Context) {
	reporting, stopReporting := context.WithCancel(ctx)
	reported := make(chan struct{})
	go func() {
		p.report(reporting)
		close(reported)
	}()
	if p.prepare(ctx) && p.runInit() {
		var running sync.WaitGroup
		for _, c := range p.main {
			running.Go(func() { c.live(p.stop) })
		}
		running.Wait()
	}
	p.stopSidecars()
	// A pod that ended by itself stays, with its logs, until somebody deletes it.
	<-p.stop.Done()
	stopReporting()
	<-reported
	p.remove(ctx)
}

// prepare gives the pod its network and its volumes; false: it is to end before it began.
func (p *pod) prepare(ctx context.Context) bool {
	return p.insist(func() error { return p.makeSandbox() }) && p.insist(func() error { return p.makeVolumes(ctx) })
}

// insist tries until it works, and shows in the status why it does not.
func (p *pod) insist(try func() error) bool {
	for p.stop.Err() == nil {
		err := try()
		p.mu.Lock()
		p.trouble = ""
		if err != nil {
			p.trouble = err.Error()
		}
		p.mu.Unlock()
		p.change()
		if err == nil {
			return true
		}
		sleep(p.stop, 300*time.Millisecond)
	}
	return false
}

func sleep(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}

func (p *pod) makeSandbox() error {
	if err := os.MkdirAll(p.folder, 0o755); err != nil {
		return err
	}
	object := p.latest()
	if object.Spec.HostNetwork {
		p.setAddress(netip.MustParseAddr(nodeIP))
		return nil
	}
	address, err := p.kubelet.network.address()
	if err != nil {
		return err
	}
	p.kubelet.network.remove(string(object.UID))
	if err := p.kubelet.network.add(string(object.UID), address); err != nil {
		return err
	}
	p.setAddress(address)
	return nil
}

func (p *pod) setAddress(address netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ip = address
}

func (p *pod) address() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ip.IsValid() {
		return ""
	}
	return p.ip.String()
}

// netns is the path of the namespace in which the containers run.
func (p *pod) netns() string {
	object := p.latest()
	if object.Spec.HostNetwork {
		return filepath.Join(netnsFolder, netnsName)
	}
	return podNetns(string(object.UID))
}

// runInit runs the init containers one after the other. Those that restart always (sidecars) stay; the next one waits
// only until such a one has started. False: the pod must not go on.
func (p *pod) runInit() bool {
	for _, c := range p.init {
		if c.sidecar() {
			c.launched = true
			// Until the main containers have ended: a sidecar serves them to the last.
			go c.live(p.gone)
			if !c.waitStarted(p.stop) {
				return false
			}
			continue
		}
		c.live(p.stop)
		if !c.succeeded() {
			return false
		}
	}
	p.mu.Lock()
	p.initDone = true
	p.mu.Unlock()
	p.change()
	return p.stop.Err() == nil
}

// stopSidecars ends them in the reverse order of their start.
func (p *pod) stopSidecars() {
	for i := len(p.init) - 1; i >= 0; i-- {
		if p.init[i].launched {
			p.init[i].end()
		}
	}
}

// remove takes everything away and tells the API server that nothing of the pod is left.
func (p *pod) remove(ctx context.Context) {
	object := p.latest()
	p.kubelet.network.remove(string(object.UID))
	for p.gone.Err() == nil {
		p.reportOnce(ctx)
		zero := int64(0)
		err := p.kubelet.client.CoreV1().Pods(object.Namespace).Delete(ctx, object.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &object.UID},
		})
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			break
		}
		log.Printf("%s/%s: not deleted: %v", object.Namespace, object.Name, err)
		sleep(p.gone, 300*time.Millisecond)
	}
	p.removeVolumes()
	p.kubelet.forget(object.UID)
}
