package main

import (
	"strings"

	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

// Those that make objects out of objects. Left out: whatever watches over nodes (there is one and it is honest), volumes,
// certificates, clouds.
var controllerNames = []string{
	"clusterrole-aggregation-controller",
	"cronjob-controller",
	"daemonset-controller",
	"deployment-controller",
	"disruption-controller",
	"endpoints-controller",
	"endpointslice-controller",
	"endpointslice-mirroring-controller",
	"garbage-collector-controller",
	"horizontal-pod-autoscaler-controller",
	"job-controller",
	"namespace-controller",
	"replicaset-controller",
	"resourcequota-controller",
	"root-ca-certificate-publisher-controller",
	"serviceaccount-controller",
	"serviceaccount-token-controller",
	"statefulset-controller",
	"ttl-after-finished-controller",
	"validatingadmissionpolicy-status-controller",
}

func controllers() {
	runCommand(app.NewControllerManagerCommand(),
		"--kubeconfig="+pki("controllers.kubeconfig"),
		"--authentication-kubeconfig="+pki("controllers.kubeconfig"),
		"--authorization-kubeconfig="+pki("controllers.kubeconfig"),
		"--bind-address=127.0.0.1",
		"--controllers="+strings.Join(controllerNames, ","),
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+pki("accounts.key"),
		"--root-ca-file="+pki("ca.crt"),
		"--leader-elect=false",
		// Two seconds instead of fifteen: tests wait for it.
		"--horizontal-pod-autoscaler-sync-period=2s",
		"--profiling=false",
	)
}
