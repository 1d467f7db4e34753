package main

import (
	"context"
	"flag"
	"log"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// kubelet stands in for a node's agent and for the scheduler: one node, to which every pod is bound. A pod's containers
// are processes of this machine in the pod's own network namespace, each with a file system of its own.
//
// kubelet.go          the node, binding, which pods there are
// kubelet_pod.go      the life of one pod, from addresses to removal
// kubelet_container.go    one container: start, restart, stop
// kubelet_process.go      a process in the pod's namespaces
// kubelet_environment.go, kubelet_volumes.go    what a container finds
// kubelet_probe.go        readiness, liveness, startup
// kubelet_status.go       what the API server is told
// kubelet_server.go, kubelet_log.go    what the API server asks for: logs, exec
type kubelet struct {
	client  kubernetes.Interface
	images  imageTable
	network *podNetworks
	mu      sync.Mutex
	pods    map[types.UID]*pod
}

func kubeletProcess(arguments []string) {
	images := imageTable{}
	flags := flag.NewFlagSet("rig kubelet", flag.ExitOnError)
	flags.Func("image", "PREFIX=BINARY", images.add)
	flags.Parse(arguments)

	config, err := restConfig("node")
	if err != nil {
		fatal("%v", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fatal("%v", err)
	}
	k := &kubelet{client: client, images: images, network: newPodNetworks(), pods: map[types.UID]*pod{}}
	go func() { fatal("the kubelet's server ended: %v", k.serve()) }()
	ctx := context.Background()
	if err := k.register(ctx); err != nil {
		fatal("the node cannot be registered: %v", err)
	}
	k.watch(ctx)
}

// register creates the node; the EndpointSlice controller wants it to exist.
func (k *kubelet) register(ctx context.Context) error {
	now := metav1.Now()
	resources := v1.ResourceList{
		v1.ResourceCPU:              resource.MustParse("64"),
		v1.ResourceMemory:           resource.MustParse("256Gi"),
		v1.ResourceEphemeralStorage: resource.MustParse("256Gi"),
		v1.ResourcePods:             resource.MustParse("1000"),
	}
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{
			v1.LabelHostname: nodeName, v1.LabelOSStable: "linux", v1.LabelArchStable: "amd64",
			v1.LabelTopologyZone: "rig-zone", v1.LabelTopologyRegion: "rig-region",
		}},
	}
	created, err := k.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		created, err = k.client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	created.Status = v1.NodeStatus{
		Capacity: resources, Allocatable: resources,
		Addresses:       []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: nodeIP}, {Type: v1.NodeHostName, Address: nodeName}},
		DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: kubeletPort}},
		NodeInfo:        v1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64", KubeletVersion: "v0.0.0-rig", ContainerRuntimeVersion: "process://1"},
		Conditions: []v1.NodeCondition{{
			Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "the rig runs",
			LastHeartbeatTime: now, LastTransitionTime: now,
		}},
	}
	_, err = k.client.CoreV1().Nodes().UpdateStatus(ctx, created, metav1.UpdateOptions{})
	return err
}

func (k *kubelet) watch(ctx context.Context) {
	factory := informers.NewSharedInformerFactory(k.client, 0)
	informer := factory.Core().V1().Pods().Informer()
	informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { k.see(ctx, object.(*v1.Pod)) },
		UpdateFunc: func(_, object any) { k.see(ctx, object.(*v1.Pod)) },
		DeleteFunc: func(object any) {
			if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = unknown.Obj
			}
			if gone, ok := object.(*v1.Pod); ok {
				k.forget(gone.UID)
			}
		},
	})
	factory.Start(ctx.Done())
	select {}
}

// see is called for every version of every pod.
func (k *kubelet) see(ctx context.Context, object *v1.Pod) {
	if object.Spec.NodeName == "" {
		if len(object.Spec.SchedulingGates) == 0 && object.DeletionTimestamp == nil {
			go k.bind(ctx, object)
		}
		return
	}
	if object.Spec.NodeName != nodeName {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.pods[object.UID]
	if known == nil {
		if ended(object) && object.DeletionTimestamp == nil {
			return
		}
		known = newPod(k, object)
		k.pods[object.UID] = known
		go known.live(ctx)
	}
	known.see(object)
}

func ended(object *v1.Pod) bool {
	return object.Status.Phase == v1.PodSucceeded || object.Status.Phase == v1.PodFailed
}

func (k *kubelet) bind(ctx context.Context, object *v1.Pod) {
	binding := &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: object.Namespace, Name: object.Name, UID: object.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: nodeName},
	}
	for {
		err := k.client.CoreV1().Pods(object.Namespace).Bind(ctx, binding, metav1.CreateOptions{})
		switch {
		case err == nil, apierrors.IsConflict(err), apierrors.IsNotFound(err):
			return
		}
		log.Printf("%s/%s: not bound: %v", object.Namespace, object.Name, err)
		time.Sleep(time.Second)
	}
}

// forget is called when the object is gone: nobody may wait for its processes any more.
func (k *kubelet) forget(uid types.UID) {
	k.mu.Lock()
	known := k.pods[uid]
	delete(k.pods, uid)
	k.mu.Unlock()
	if known != nil {
		known.vanish()
	}
}

// find gives a running pod by name.
func (k *kubelet) find(namespace, name string) *pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.pods {
		if object := one.latest(); object.Namespace == namespace && object.Name == name {
			return one
		}
	}
	return nil
}
