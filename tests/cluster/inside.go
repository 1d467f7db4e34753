package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"golang.org/x/sys/unix"
)

// How long a command may take to end after SIGTERM before it is killed.
const commandGrace = 10 * time.Second

// runInside is the first process of the rig's namespaces: when it ends, the kernel ends all others and takes the
// namespaces down.
func runInside(arguments []string) int {
	s, err := parseSettings(arguments)
	if err != nil {
		fatal("%v", err)
	}
	// Nothing in here is reached through a proxy, and there is no way to one.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		os.Unsetenv(name)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go reapOrphans()

	if err := makePlace(); err != nil {
		fatal("the rig's place cannot be made: %v", err)
	}
	// The components are started from this goroutine, which has the main thread (see init in main.go).
	components, err := startComponents(ctx, s, signals)
	if err != nil {
		components.tell()
		fatal("%v", err)
	}
	return components.runUntilEnd(s, signals)
}

// makePlace makes the mounts and the network.
func makePlace() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := unix.Mount("weir-rig", "/run", "tmpfs", unix.MS_NOSUID, "mode=0755,size=2g"); err != nil {
		return err
	}
	for _, folder := range []string{pkiFolder, etcdFolder, logFolder, pidFolder, holdFolder, podFolder, binFolder} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(etcdFolder, 0o700); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Symlink(self, filepath.Join(binFolder, "kubectl")); err != nil {
		return err
	}
	if err := makeNetwork(); err != nil {
		return err
	}
	return makeCertificates()
}

func startComponents(ctx context.Context, s settings, signals <-chan os.Signal) (*components, error) {
	begin := time.Now()
	all, err := newComponents(s.logs)
	if err != nil {
		return all, err
	}
	say := func(what string) {
		fmt.Fprintf(os.Stderr, "rig: %s after %.1f s\n", what, time.Since(begin).Seconds())
	}
	wait := func(what string, ready func() error) error { return all.wait(what, ready, signals) }

	if err := all.start("etcd"); err != nil {
		return all, err
	}
	if err := all.start("apiserver"); err != nil {
		return all, err
	}
	config, err := restConfig("admin")
	if err != nil {
		return all, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return all, err
	}
	if err := wait("the API server", func() error { return serverReady(ctx, client) }); err != nil {
		return all, err
	}
	say("API server ready")
	if err := all.start("controllers"); err != nil {
		return all, err
	}
	if err := all.start("kubelet", s.images.arguments()...); err != nil {
		return all, err
	}
	if s.crds != "none" {
		if err := installDefinitions(ctx, config, filepath.Join(s.crdsFrom, s.crds), wait); err != nil {
			return all, err
		}
		say("Gateway API (" + s.crds + ") installed")
	}
	if err := wait("the controllers and the node", func() error { return clusterReady(ctx, client) }); err != nil {
		return all, err
	}
	say("cluster ready")
	return all, nil
}

func serverReady(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// clusterReady holds once pods can be made: every namespace has its service account and there is a node to run them.
func clusterReady(ctx context.Context, client kubernetes.Interface) error {
	if _, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return err
	}
	_, err := client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	return err
}

// environment is what the command gets beside its own.
func (c *components) environment() []string {
	return append(os.Environ(),
		"KUBECONFIG="+pki("admin.kubeconfig"),
		"PATH="+binFolder+":"+os.Getenv("PATH"),
		"WEIR_RIG_SERVER="+server,
		"WEIR_RIG_NETNS="+netnsName,
		"WEIR_RIG_ADDRESSES="+gatewayNetwork,
		"WEIR_RIG_PODS="+podNetwork,
		"WEIR_RIG_LOGS="+c.logs,
		"WEIR_RIG_PIDS="+pidFolder,
		"WEIR_RIG_HOLD="+holdFolder,
	)
}

// runUntilEnd runs the command and gives its exit code. A component that ends without having been asked to ends the run.
func (c *components) runUntilEnd(s settings, signals <-chan os.Signal) int {
	command := exec.Command(s.command[0], s.command[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.Env = c.environment()
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if path, err := lookPath(s.command[0]); err == nil {
		command.Path, command.Err = path, nil
	}
	done, err := supervise(command)
	if err != nil {
		fmt.Fprintf(os.Stderr, "rig: the command does not start: %v\n", err)
		return 127
	}
	var first time.Time
	var kill <-chan time.Time
	for {
		select {
		case <-done:
			return exitCode(command.ProcessState)
		case s := <-signals:
			if kill == nil {
				first, kill = time.Now(), time.After(commandGrace)
				command.Process.Signal(s)
			} else if time.Since(first) > time.Second {
				// Not the same Ctrl-C twice, once from the terminal and once from the outer process.
				command.Process.Kill()
			}
		case <-kill:
			command.Process.Kill()
		case <-c.tick.C:
			if err := c.look(); err != nil {
				c.tell()
				command.Process.Kill()
				fatal("%v", err)
			}
		}
	}
}

// lookPath knows the rig's own kubectl, which PATH of this process does not have.
func lookPath(name string) (string, error) {
	if name == "kubectl" {
		return filepath.Join(binFolder, name), nil
	}
	return exec.LookPath(name)
}

// wait asks until the answer is good, a component ends, a signal comes or the time is up.
func (c *components) wait(what string, ready func() error, signals <-chan os.Signal) error {
	late := time.After(2 * time.Minute)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-c.tick.C:
			if err := c.look(); err != nil {
				return err
			}
		case s := <-signals:
			return fmt.Errorf("stopped by %v", s)
		case <-late:
			return errors.New(what + " is not ready after two minutes: " + err.Error())
		}
	}
}

// restConfig is for the rig's own clients: no client-side rate limit, the API server has its own.
func restConfig(user string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", pki(user+".kubeconfig"))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}
