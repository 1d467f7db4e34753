package main

import (
	"context"
	"encoding/json"
	"log"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// report tells the API server the status whenever it has changed.
func (p *pod) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.changed:
		}
		if !p.reportOnce(ctx) {
			sleep(ctx, 200*time.Millisecond)
			p.change()
		}
	}
}

// reportOnce gives false where it has to be tried again.
func (p *pod) reportOnce(ctx context.Context) bool {
	object := p.latest()
	status := p.status(object)
	if equality.Semantic.DeepEqual(status, object.Status) {
		return true
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": object.UID}, "status": status})
	if err != nil {
		log.Printf("%s/%s: %v", object.Namespace, object.Name, err)
		return true
	}
	updated, err := p.kubelet.client.CoreV1().Pods(object.Namespace).Patch(ctx, object.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case err == nil:
		p.mu.Lock()
		// The watch is behind: compared with what it has shown so far, the same status would be sent again.
		if p.object.ResourceVersion == object.ResourceVersion {
			p.object = updated
		}
		p.mu.Unlock()
		return true
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return true
	}
	if ctx.Err() == nil {
		log.Printf("%s/%s: status not written: %v", object.Namespace, object.Name, err)
	}
	return false
}

// status is the pod's status as it is now. What others wrote into it stays.
func (p *pod) status(object *v1.Pod) v1.PodStatus {
	status := *object.Status.DeepCopy()
	p.mu.Lock()
	trouble, initDone, ip := p.trouble, p.initDone, ""
	if p.ip.IsValid() {
		ip = p.ip.String()
	}
	p.mu.Unlock()

	status.ObservedGeneration = object.Generation
	status.HostIP, status.HostIPs = nodeIP, []v1.HostIP{{IP: nodeIP}}
	status.StartTime = &p.startedAt
	if ip != "" {
		status.PodIP, status.PodIPs = ip, []v1.PodIP{{IP: ip}}
	}
	status.InitContainerStatuses = statuses(p.init, trouble)
	status.ContainerStatuses = statuses(p.main, trouble)
	status.Phase = phase(object, status, initDone)
	if status.QOSClass == "" {
		status.QOSClass = v1.PodQOSBestEffort
	}

	ready := !slices.ContainsFunc(status.ContainerStatuses, func(c v1.ContainerStatus) bool { return !c.Ready })
	sidecarsReady := !slices.ContainsFunc(p.init, func(c *container) bool { return c.sidecar() && !c.status("").Ready })
	p.condition(&status, object, v1.PodReadyToStartContainers, ip != "", "")
	p.condition(&status, object, v1.PodInitialized, initDone, "ContainersNotInitialized")
	p.condition(&status, object, v1.ContainersReady, initDone && ready && sidecarsReady, "ContainersNotReady")
	p.condition(&status, object, v1.PodReady, initDone && ready && sidecarsReady && gatesOpen(object), "ContainersNotReady")
	return status
}

// condition sets a condition; the time changes only with the state.
func (p *pod) condition(status *v1.PodStatus, object *v1.Pod, kind v1.PodConditionType, holds bool, reason string) {
	condition := v1.PodCondition{Type: kind, Status: v1.ConditionTrue, ObservedGeneration: object.Generation, LastTransitionTime: metav1.Now()}
	if !holds {
		condition.Status, condition.Reason = v1.ConditionFalse, reason
		if status.Phase == v1.PodSucceeded {
			condition.Reason = "PodCompleted"
		}
	}
	for i := range status.Conditions {
		if old := &status.Conditions[i]; old.Type == kind {
			if old.Status == condition.Status {
				condition.LastTransitionTime = old.LastTransitionTime
			}
			*old = condition
			return
		}
	}
	status.Conditions = append(status.Conditions, condition)
}

// gatesOpen: every condition that the pod's readiness gates name holds.
func gatesOpen(object *v1.Pod) bool {
	for _, gate := range object.Spec.ReadinessGates {
		if !slices.ContainsFunc(object.Status.Conditions, func(c v1.PodCondition) bool {
			return c.Type == gate.ConditionType && c.Status == v1.ConditionTrue
		}) {
			return false
		}
	}
	return true
}

func phase(object *v1.Pod, status v1.PodStatus, initDone bool) v1.PodPhase {
	if !initDone {
		for i, c := range status.InitContainerStatuses {
			own := object.Spec.InitContainers[i].RestartPolicy
			sidecar := own != nil && *own == v1.ContainerRestartPolicyAlways
			if !sidecar && c.State.Terminated != nil && c.State.Terminated.ExitCode != 0 && object.Spec.RestartPolicy == v1.RestartPolicyNever {
				return v1.PodFailed
			}
		}
		return v1.PodPending
	}
	started, failed, open := false, false, false
	for _, c := range status.ContainerStatuses {
		switch {
		case c.State.Terminated != nil && object.Spec.RestartPolicy == v1.RestartPolicyNever,
			c.State.Terminated != nil && object.Spec.RestartPolicy == v1.RestartPolicyOnFailure && c.State.Terminated.ExitCode == 0,
			c.State.Terminated != nil && object.DeletionTimestamp != nil:
			failed = failed || c.State.Terminated.ExitCode != 0
			started = true
		default:
			open = true
			started = started || c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil
		}
	}
	switch {
	case !started:
		return v1.PodPending
	case open:
		return v1.PodRunning
	case failed:
		return v1.PodFailed
	default:
		return v1.PodSucceeded
	}
}

func statuses(containers []*container, trouble string) []v1.ContainerStatus {
	var all []v1.ContainerStatus
	for _, c := range containers {
		all = append(all, c.status(trouble))
	}
	return all
}

func (c *container) status(trouble string) v1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	status := v1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, RestartCount: c.restarts,
		State: c.state, LastTerminationState: c.last, Ready: c.ready,
	}
	// An init container is ready when it has done its work.
	if c.init && !c.sidecar() {
		status.Ready = c.state.Terminated != nil && c.state.Terminated.ExitCode == 0
	}
	if c.process != nil {
		status.ContainerID = c.process.id
	} else if c.state.Terminated != nil {
		status.ContainerID = c.state.Terminated.ContainerID
	} else if c.last.Terminated != nil {
		status.ContainerID = c.last.Terminated.ContainerID
	}
	up := c.isUp
	status.Started = &up
	if waiting := status.State.Waiting; waiting != nil && trouble != "" {
		status.State.Waiting = &v1.ContainerStateWaiting{Reason: waiting.Reason, Message: trouble}
	}
	return status
}
