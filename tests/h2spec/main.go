// Runs every section of h2spec against a Weir of its own, in clear text with prior knowledge and over TLS, with the strict
// cases, and compares what fails with exceptions.txt: a failure that is not listed fails the run, and so does a listed
// case that passes.
//
// h2spec comes as a library, in the version that go.sum pins.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	spechttp2 "github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// How long a case waits for what it expects; a case that expects nothing waits so long.
const patience = 5 * time.Second

func main() {
	// Linux ends a child with the thread that started it, when asked to: this one lives as long as the process.
	runtime.LockOSThread()
	binary := flag.String("weir", "", "the binary to test")
	listed := flag.String("exceptions", "exceptions.txt", "cases that are known to fail, with reasons")
	only := flag.String("only", "", "run these sections only (comma separated), and do not ask for listed cases elsewhere")
	flag.Parse()
	if *binary == "" {
		fmt.Fprintln(os.Stderr, "h2spec: --weir names the binary to test")
		os.Exit(2)
	}
	good, err := run(*binary, *listed, *only)
	if err != nil {
		fmt.Fprintf(os.Stderr, "h2spec: %v\n", err)
		os.Exit(2)
	}
	if !good {
		os.Exit(1)
	}
}

func run(binary, listed, only string) (bool, error) {
	exceptions, err := readExceptions(listed)
	if err != nil {
		return false, err
	}
	backend, err := startBackend()
	if err != nil {
		return false, err
	}
	defer backend.Close()
	weir, err := startWeir(binary, backend.Addr().String())
	if err != nil {
		return false, err
	}
	defer weir.stop()

	var passed, expected int
	var wrong []string
	for _, transport := range []struct {
		name     string
		listener string
		tls      bool
	}{{"clear", "http", false}, {"tls", "https", true}} {
		fmt.Printf("\n== h2spec over %s\n\n", transport.name)
		address := weir.listeners[transport.listener]
		settings := &config.Config{
			Host: address.IP.String(), Port: address.Port, Path: "/", Timeout: patience, MaxHeaderLen: 4000,
			Strict: true, TLS: transport.tls, Insecure: transport.tls,
		}
		if only != "" {
			settings.Sections = strings.Split(only, ",")
		}
		seen := map[string]bool{}
		for _, group := range []*spec.TestGroup{generic.Spec(), spechttp2.Spec(), hpack.Spec()} {
			group.Test(settings)
			each(group, func(id string, result *spec.TestResult) {
				seen[id] = true
				_, known := exceptions[exception{id, transport.name}]
				bad := result.Failed || result.Skipped
				switch {
				case bad && known:
					expected++
				case bad:
					wrong = append(wrong, fmt.Sprintf("%s over %s: %s: %v", id, transport.name, result.TestCase.Desc, result.Error))
				case known:
					wrong = append(wrong, fmt.Sprintf("%s over %s passes, but is listed in %s", id, transport.name, listed))
				default:
					passed++
				}
			})
		}
		for known := range exceptions {
			if known.transport == transport.name && !seen[known.id] && only == "" {
				wrong = append(wrong, fmt.Sprintf("%s is listed in %s, but h2spec has no such case", known.id, listed))
			}
		}
	}
	if err := weir.healthy(); err != nil {
		wrong = append(wrong, "after all cases: "+err.Error())
	}
	for _, line := range wrong {
		fmt.Println("WRONG:", line)
	}
	fmt.Printf("h2spec: %d passed, %d failed as listed, %d wrong\n", passed, expected, len(wrong))
	if passed == 0 {
		return false, errors.New("no case has run")
	}
	return len(wrong) == 0, nil
}

// Calls back for every case that has run, with its identifier as h2spec's command line takes it.
func each(group *spec.TestGroup, call func(string, *spec.TestResult)) {
	for _, tests := range [][]*spec.TestCase{group.Tests, group.StrictTests} {
		for _, test := range tests {
			if test.Result != nil {
				call(fmt.Sprintf("%s/%d", group.ID(), test.Result.Sequence), test.Result)
			}
		}
	}
	for _, inner := range group.Groups {
		each(inner, call)
	}
}

// A case that is known to fail over a transport.
type exception struct{ id, transport string }

// Lines of `ID TRANSPORT REASON`, the transport being `clear` or `tls`; empty lines and those that begin with # do not
// count.
func readExceptions(path string) (map[exception]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	exceptions := map[exception]string{}
	for number, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.SplitN(line, " ", 3)
		if len(words) < 3 || words[1] != "clear" && words[1] != "tls" {
			return nil, fmt.Errorf("%s line %d: %q is not `ID clear|tls REASON`", path, number+1, line)
		}
		exceptions[exception{words[0], words[1]}] = words[2]
	}
	return exceptions, nil
}

// A backend that reads what it is sent and answers with a body that some cases want to see flow-controlled.
func startBackend() (net.Listener, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	body := strings.Repeat("h2spec ", 200)
	server := &http.Server{Handler: http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		// A request that breaks off is what many cases are about.
		_, _ = io.Copy(io.Discard, request.Body)
		_, _ = io.WriteString(answer, body)
	})}
	go func() { _ = server.Serve(listener) }()
	return listener, nil
}

type weir struct {
	command   *exec.Cmd
	folder    string
	listeners map[string]*net.TCPAddr
	log       *log
}

// What the process has said.
type log struct {
	sync.Mutex
	lines []string
}

func (l *log) text() string {
	l.Lock()
	defer l.Unlock()
	return strings.Join(l.lines, "\n")
}

func startWeir(binary, backend string) (*weir, error) {
	folder, err := os.MkdirTemp("", "weir-h2spec-")
	if err != nil {
		return nil, err
	}
	w := &weir{folder: folder, listeners: map[string]*net.TCPAddr{}, log: &log{}}
	if err := w.start(binary, backend); err != nil {
		w.stop()
		return nil, err
	}
	return w, nil
}

func (w *weir) start(binary, backend string) error {
	manifests, err := manifests(backend)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.folder, "main.yaml"), []byte(manifests), 0o600); err != nil {
		return err
	}
	w.command = exec.Command(binary, "run", "--manifests", w.folder,
		"--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "WEIR_") {
			w.command.Env = append(w.command.Env, variable)
		}
	}
	// The process must not outlive whoever started it.
	w.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := w.command.StderrPipe()
	if err != nil {
		return err
	}
	if err := w.command.Start(); err != nil {
		return err
	}
	ready := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			w.read(lines.Text(), ready)
		}
	}()
	select {
	case <-ready:
		return nil
	case <-ended:
		return fmt.Errorf("weir ended before it was ready:\n%s", w.log.text())
	case <-time.After(30 * time.Second):
		return fmt.Errorf("weir was not ready within 30 s:\n%s", w.log.text())
	}
}

// Takes a line of the log: where it listens, and that it is ready.
func (w *weir) read(text string, ready chan struct{}) {
	w.log.Lock()
	defer w.log.Unlock()
	w.log.lines = append(w.log.lines, text)
	var line map[string]any
	if json.Unmarshal([]byte(text), &line) != nil {
		return
	}
	field := func(name string) string {
		value, found := line[name]
		if fields, nested := line["fields"].(map[string]any); !found && nested {
			value = fields[name]
		}
		said, _ := value.(string)
		return said
	}
	switch field("message") {
	case "listening":
		if address, err := net.ResolveTCPAddr("tcp", field("address")); err == nil {
			w.listeners[field("listener")] = address
		}
	case "ready":
		close(ready)
	}
}

// Still serves, and nothing in it broke.
func (w *weir) healthy() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
	}}
	get := func(url string) (*http.Response, string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, "", err
		}
		answer, err := client.Do(request)
		if err != nil {
			return nil, "", err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		return answer, string(body), err
	}
	answer, _, err := get("https://" + w.listeners["https"].String() + "/")
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || answer.ProtoMajor != 2 {
		return fmt.Errorf("a plain request got %s %s", answer.Proto, answer.Status)
	}
	_, metrics, err := get("http://" + w.listeners["admin"].String() + "/metrics")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(metrics, "\n") {
		if count, found := strings.CutPrefix(line, "weir_worker_panics_total "); found && count != "0" {
			return fmt.Errorf("%s panics", count)
		} else if found {
			return nil
		}
	}
	return errors.New("/metrics does not say how many panics there were")
}

func (w *weir) stop() {
	if w.command != nil && w.command.Process != nil {
		// Both fail if it has ended already, which is as good.
		_ = w.command.Process.Kill()
		_ = w.command.Wait()
	}
	_ = os.RemoveAll(w.folder)
}

func manifests(backend string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "h2spec"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		DNSNames:     []string{"h2spec.example"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	encode := func(kind string, bytes []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	return fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: weir
spec:
  controller: weir.dev/ingress-controller
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata:
  name: certificate
data:
  tls.crt: %s
  tls.key: %s
---
apiVersion: v1
kind: Service
metadata:
  name: backend
  annotations:
    weir.dev/endpoints: %q
spec:
  ports:
  - port: 80
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: all
spec:
  tls:
  - secretName: certificate
  defaultBackend:
    service:
      name: backend
      port:
        number: 80
`, encode("CERTIFICATE", certificate), encode("PRIVATE KEY", private), backend), nil
}
