package main

// Where everything is, inside the rig's namespaces. /run is a file system in memory of the rig's own, so fixed names and
// fixed ports are free here.
const (
	netnsName = "weir-rig"

	// 198.18.0.0/15 is set aside for tests (RFC 2544): it is nobody's private network, and the API server takes it in
	// EndpointSlices, as it would not take loopback.
	nodeIP         = "198.18.0.1"
	podNetwork     = "198.18.0.0/16"
	podPrefix      = 16
	gatewayNetwork = "198.19.0.0/17"
	serviceNetwork = "198.19.128.0/17"
	serviceIP      = "198.19.128.1" // of the Service kubernetes

	etcdClient  = "http://127.0.0.1:2379"
	etcdPeer    = "http://127.0.0.1:2380"
	server      = "https://" + nodeIP + ":6443"
	kubeletPort = 10250
	nodeName    = "rig-node"

	runFolder   = "/run/weir-rig"
	pkiFolder   = runFolder + "/pki"
	etcdFolder  = runFolder + "/etcd"
	logFolder   = runFolder + "/logs"
	pidFolder   = runFolder + "/pids"
	holdFolder  = runFolder + "/hold"
	podFolder   = runFolder + "/pods"
	binFolder   = runFolder + "/bin"
	netnsFolder = "/run/netns"
)
