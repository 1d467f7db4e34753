// The rig: a real Kubernetes API server on one machine, without containers.
//
// One binary is every process of the cluster: `rig run -- COMMAND…` makes the namespaces and starts the others,
// each as a process of its own (etcd, API server and controller manager register global flags and metrics, and a test
// wants to stop one of them alone). Called by the name kubectl it is kubectl.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

func init() {
	// PR_SET_PDEATHSIG is about the THREAD that started the child. The main thread lives as long as the process, so
	// children started from the main goroutine die with the process and not earlier.
	runtime.LockOSThread()
}

func main() {
	if filepath.Base(os.Args[0]) == "kubectl" {
		kubectl()
		return
	}
	if len(os.Args) < 2 {
		fatal(usage)
	}
	verb, arguments := os.Args[1], os.Args[2:]
	switch verb {
	case "run":
		os.Exit(runOutside(arguments))
	case "inside":
		os.Exit(runInside(arguments))
	case "etcd":
		etcd()
	case "apiserver":
		apiserver()
	case "controllers":
		controllers()
	case "kubelet":
		kubeletProcess(arguments)
	default:
		fatal(usage)
	}
}

// fatal ends the process with one sentence; 70 is what no command under test returns by habit.
func fatal(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "rig: "+format+"\n", values...)
	os.Exit(70)
}
