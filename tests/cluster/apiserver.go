package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func apiserver() {
	runCommand(app.NewAPIServerCommand(),
		"--etcd-servers="+etcdClient,
		"--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address="+nodeIP,
		// RBAC and nothing else: the manifests under test must bring every right they need.
		"--authorization-mode=RBAC",
		"--allow-privileged=true",
		"--client-ca-file="+pki("ca.crt"),
		"--tls-cert-file="+pki("apiserver.crt"), "--tls-private-key-file="+pki("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+pki("accounts.pub"), "--service-account-signing-key-file="+pki("accounts.key"),
		"--service-cluster-ip-range="+serviceNetwork,
		"--kubelet-client-certificate="+pki("apiserver-kubelet.crt"), "--kubelet-client-key="+pki("apiserver-kubelet.key"),
		"--kubelet-certificate-authority="+pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		// Nothing routes ClusterIPs here: webhooks and aggregated APIs are reached at their endpoints.
		"--enable-aggregator-routing=true",
		"--proxy-client-cert-file="+pki("front-proxy.crt"), "--proxy-client-key-file="+pki("front-proxy.key"),
		"--requestheader-client-ca-file="+pki("ca.crt"), "--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--profiling=false",
	)
}

// runCommand runs a component of Kubernetes as its own main function would.
func runCommand(command *cobra.Command, arguments ...string) {
	command.SetArgs(arguments)
	os.Exit(cli.Run(command))
}
