package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// serve is what the API server calls for logs and exec; it asks for a certificate of the cluster.
func (k *kubelet) serve() error {
	ca, err := os.ReadFile(pki("ca.crt"))
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca)
	routes := http.NewServeMux()
	routes.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	routes.HandleFunc("GET /pods", k.servePods)
	routes.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
	routes.HandleFunc("/exec/{namespace}/{pod}/{container}", k.serveExec)
	routes.HandleFunc("/exec/{namespace}/{pod}/{uid}/{container}", k.serveExec)
	server := &http.Server{
		Addr:      fmt.Sprintf("%s:%d", nodeIP, kubeletPort),
		Handler:   routes,
		TLSConfig: &tls.Config{ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"http/1.1"}},
	}
	return server.ListenAndServeTLS(pki("kubelet.crt"), pki("kubelet.key"))
}

func (k *kubelet) servePods(w http.ResponseWriter, _ *http.Request) {
	list := v1.PodList{}
	k.mu.Lock()
	for _, one := range k.pods {
		list.Items = append(list.Items, *one.latest())
	}
	k.mu.Unlock()
	json.NewEncoder(w).Encode(list)
}

// container finds the container that the request's path names.
func (k *kubelet) container(r *http.Request) *container {
	known := k.find(r.PathValue("namespace"), r.PathValue("pod"))
	if known == nil {
		return nil
	}
	for _, c := range append(known.init[:len(known.init):len(known.init)], known.main...) {
		if c.spec.Name == r.PathValue("container") {
			return c
		}
	}
	return nil
}

func (k *kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	c := k.container(r)
	if c == nil {
		http.Error(w, "there is no such container", http.StatusNotFound)
		return
	}
	query, err := parseLogQuery(r.URL.Query(), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	book := c.book(query.previous)
	if book == nil {
		http.Error(w, fmt.Sprintf("container %q has no such log", c.spec.Name), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	book.write(r.Context(), w, query)
}

// book is the log of the present run, or of the one before it.
func (c *container) book(previous bool) *logbook {
	c.mu.Lock()
	defer c.mu.Unlock()
	index := len(c.logs) - 1
	if previous {
		index--
	}
	if index < 0 {
		return nil
	}
	return c.logs[index]
}

func (k *kubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	c := k.container(r)
	var running *process
	if c != nil {
		running = c.current()
	}
	if running == nil {
		http.Error(w, "there is no such running container", http.StatusNotFound)
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, executor{running}, r.PathValue("pod"), "", c.spec.Name, r.URL.Query()["command"],
		options, time.Hour, 30*time.Second, remotecommand.SupportedStreamingProtocols)
}

// executor runs commands in a container. There is no terminal: with -t the streams are plain pipes.
type executor struct{ running *process }

func (e executor) ExecInContainer(ctx context.Context, _, _, _ string, argv []string, in io.Reader, out, failures io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	var stdout, stderr io.Writer = io.Discard, io.Discard
	if out != nil {
		stdout = out
	}
	if failures != nil {
		stderr = failures
	}
	err := e.running.execute(ctx, argv, in, stdout, stderr)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		// What the streaming library knows how to send as an exit code.
		code := exitCode(exit.ProcessState)
		return utilexec.CodeExitError{Err: errors.New("command ended with exit code " + strconv.Itoa(code)), Code: code}
	}
	return err
}
