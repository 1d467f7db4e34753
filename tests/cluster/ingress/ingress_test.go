// Package ingress asks of Weir what the Kubernetes project's conformance suite for Ingress controllers asks: its 25
// scenarios (default backend, host rules, Ingress class, load balancing, path rules), written anew against the test
// cluster, because the suite itself is published in no registry of modules. It is a stand-in, not that suite.
//
// Known differences: the backends are those of the Gateway API's suite; the default backend's answers are not asked for a
// Server header, which these backends do not send and Weir does not invent.
package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
)

const (
	class = "weir"
	// How long an Ingress may take to be told its address, and to answer as it should.
	patience = 30 * time.Second
	// How long an Ingress of a foreign class is watched for an address that it must not get.
	restraint = 5 * time.Second
)

// world is a namespace of its own in the cluster.
type world struct {
	*testing.T
	client    *kubernetes.Clientset
	namespace string
	// Where the Ingress says that it is exposed.
	address string
	roots   *x509.CertPool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	w := &world{T: t, client: kubernetes.NewForConfigOrDie(config)}
	made, err := w.client.CoreV1().Namespaces().Create(t.Context(),
		&core.Namespace{ObjectMeta: meta.ObjectMeta{GenerateName: "ingress-"}}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.namespace = made.Name
	t.Cleanup(func() {
		_ = w.client.CoreV1().Namespaces().Delete(context.Background(), w.namespace, meta.DeleteOptions{})
	})
	return w
}

// soon asks until there is nothing to complain about.
func (w *world) soon(what string, within time.Duration, ask func() error) {
	w.Helper()
	end := time.Now().Add(within)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			w.Fatalf("%s: %v (after %v)", what, err, within)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// backend runs echoes that name the Service, and waits until they are ready.
func (w *world) backend(name string, replicas int32) {
	w.Helper()
	labels := map[string]string{"app": name}
	field := func(name, path string) core.EnvVar {
		return core.EnvVar{Name: name, ValueFrom: &core.EnvVarSource{FieldRef: &core.ObjectFieldSelector{FieldPath: path}}}
	}
	deployment := &apps.Deployment{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: apps.DeploymentSpec{
			Replicas: &replicas,
			Selector: &meta.LabelSelector{MatchLabels: labels},
			Template: core.PodTemplateSpec{
				ObjectMeta: meta.ObjectMeta{Labels: labels},
				Spec: core.PodSpec{
					TerminationGracePeriodSeconds: ptr.To[int64](1),
					Containers: []core.Container{{
						Name:  "echo",
						Image: "registry.k8s.io/gateway-api/echo-basic:v1",
						Env: []core.EnvVar{
							field("POD_NAME", "metadata.name"), field("NAMESPACE", "metadata.namespace"),
							{Name: "SERVICE_NAME", Value: name},
						},
						Ports: []core.ContainerPort{{ContainerPort: 3000}},
					}},
				},
			},
		},
	}
	service := &core.Service{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.ServiceSpec{
			Selector: labels,
			Ports:    []core.ServicePort{{Name: "http", Port: 8080, TargetPort: intstr.FromInt32(3000)}},
		},
	}
	if _, err := w.client.AppsV1().Deployments(w.namespace).Create(w.Context(), deployment, meta.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	if _, err := w.client.CoreV1().Services(w.namespace).Create(w.Context(), service, meta.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.ready(name, replicas)
}

func (w *world) ready(name string, replicas int32) {
	w.Helper()
	w.soon("the pods of "+name, 2*patience, func() error {
		found, err := w.client.AppsV1().Deployments(w.namespace).Get(w.Context(), name, meta.GetOptions{})
		if err == nil && found.Status.ReadyReplicas != replicas {
			err = fmt.Errorf("%d of %d are ready", found.Status.ReadyReplicas, replicas)
		}
		return err
	})
}

// secret makes a self-signed certificate for the host, as a Secret, and trusts it.
func (w *world) secret(name, host string) {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		w.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(certificate)
	_, err = w.client.CoreV1().Secrets(w.namespace).Create(w.Context(), &core.Secret{
		ObjectMeta: meta.ObjectMeta{Name: name}, Type: core.SecretTypeTLS,
		Data: map[string][]byte{
			"tls.crt": certificate, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		},
	}, meta.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) create(spec networking.IngressSpec) {
	w.Helper()
	if spec.IngressClassName == nil {
		spec.IngressClassName = ptr.To(class)
	}
	_, err := w.client.NetworkingV1().Ingresses(w.namespace).Create(w.Context(),
		&networking.Ingress{ObjectMeta: meta.ObjectMeta{Name: "asked"}, Spec: spec}, meta.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
}

// exposed waits until the Ingress's status shows an address, and remembers it.
func (w *world) exposed() {
	w.Helper()
	w.soon("an address in the status", patience, func() error {
		found, err := w.client.NetworkingV1().Ingresses(w.namespace).Get(w.Context(), "asked", meta.GetOptions{})
		if err != nil {
			return err
		}
		for _, point := range found.Status.LoadBalancer.Ingress {
			if w.address = point.IP; w.address == "" {
				w.address = point.Hostname
			}
			return nil
		}
		return fmt.Errorf("status.loadBalancer has none")
	})
}

func port(name string) networking.IngressBackend {
	return networking.IngressBackend{Service: &networking.IngressServiceBackend{
		Name: name, Port: networking.ServiceBackendPort{Number: 8080},
	}}
}

type path struct {
	path    string
	kind    networking.PathType
	service string
}

func rule(host string, paths ...path) networking.IngressRule {
	http := &networking.HTTPIngressRuleValue{}
	for _, p := range paths {
		http.Paths = append(http.Paths, networking.HTTPIngressPath{Path: p.path, PathType: &p.kind, Backend: port(p.service)})
	}
	return networking.IngressRule{Host: host, IngressRuleValue: networking.IngressRuleValue{HTTP: http}}
}

// echo is what a backend tells of the request that it got.
type echo struct {
	Path, Host, Method, Proto, Service, Pod string
	Headers                                 map[string][]string
}

// ask sends a request to where the Ingress is exposed. The client is one that follows nothing and keeps no connection.
func (w *world) ask(method, scheme, host, path string) (*http.Response, echo, error) {
	var told echo
	client := &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				point := map[string]string{"http": "80", "https": "443"}[scheme]
				return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(w.address, point))
			},
			TLSClientConfig: &tls.Config{RootCAs: w.roots, ServerName: host},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	authority := host
	if host == "" {
		authority = w.address
	}
	request, err := http.NewRequestWithContext(w.Context(), method, scheme+"://"+authority+path, nil)
	if err != nil {
		return nil, told, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, told, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, told, err
	}
	if answer.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, &told); err != nil {
			return nil, told, fmt.Errorf("the answer is no echo: %w", err)
		}
	}
	return answer, told, nil
}

// serves holds when the Service gets the request as it was sent.
func (w *world) serves(service, scheme, host, path string) {
	w.Helper()
	w.soon(scheme+"://"+host+path, patience, func() error {
		answer, told, err := w.ask(http.MethodGet, scheme, host, path)
		switch {
		case err != nil:
			return err
		case answer.StatusCode != http.StatusOK:
			return fmt.Errorf("status %d", answer.StatusCode)
		case told.Service != service:
			return fmt.Errorf("answered by %s, not by %s", told.Service, service)
		case told.Host != host || told.Path != path:
			return fmt.Errorf("the backend saw %s%s", told.Host, told.Path)
		}
		if scheme == "https" {
			return answer.TLS.PeerCertificates[0].VerifyHostname(host)
		}
		return nil
	})
}

// unknown holds when nobody serves the request.
func (w *world) unknown(host, path string) {
	w.Helper()
	w.soon("http://"+host+path, patience, func() error {
		answer, told, err := w.ask(http.MethodGet, "http", host, path)
		if err == nil && answer.StatusCode != http.StatusNotFound {
			err = fmt.Errorf("status %d by %q, not 404", answer.StatusCode, told.Service)
		}
		return err
	})
}

func TestDefaultBackend(t *testing.T) {
	w := newWorld(t)
	w.backend("echo-service", 1)
	w.create(networking.IngressSpec{DefaultBackend: ptr.To(port("echo-service"))})
	w.exposed()
	t.Run("an Ingress without rules sends everything to its default backend", func(t *testing.T) {
		w := &world{T: t, client: w.client, namespace: w.namespace, address: w.address}
		for _, example := range []struct{ method, host, path string }{
			{"GET", "my-host", "/"}, {"GET", "my-host", "/sub-path"}, {"POST", "some-host", "/"},
			{"PUT", "", "/resource"}, {"DELETE", "some-host", "/resource"}, {"PATCH", "my-host", "/resource"},
		} {
			w.soon(example.method+" "+example.host+example.path, patience, func() error {
				answer, told, err := w.ask(example.method, "http", example.host, example.path)
				if err != nil {
					return err
				}
				if answer.StatusCode != http.StatusOK || answer.Proto != "HTTP/1.1" || told.Service != "echo-service" {
					return fmt.Errorf("%s %d by %q", answer.Proto, answer.StatusCode, told.Service)
				}
				if told.Method != example.method || told.Path != example.path || told.Proto != "HTTP/1.1" {
					return fmt.Errorf("the backend saw %s %s %s", told.Method, told.Path, told.Proto)
				}
				for _, name := range []string{"Content-Length", "Content-Type", "Date"} {
					if answer.Header.Get(name) == "" {
						return fmt.Errorf("the answer has no %s", name)
					}
				}
				if agent := strings.Join(told.Headers["User-Agent"], ","); agent != "Go-http-client/1.1" {
					return fmt.Errorf("the backend saw the User-Agent %q", agent)
				}
				return nil
			})
		}
	})
}

func TestHostRules(t *testing.T) {
	w := newWorld(t)
	w.backend("wildcard-foo-com", 1)
	w.backend("foo-bar-com", 1)
	w.secret("conformance-tls", "foo.bar.com")
	byName := rule("foo.bar.com", path{"/", networking.PathTypePrefix, "foo-bar-com"})
	byName.HTTP.Paths[0].Backend.Service.Port = networking.ServiceBackendPort{Name: "http"}
	w.create(networking.IngressSpec{
		TLS:   []networking.IngressTLS{{Hosts: []string{"foo.bar.com"}, SecretName: "conformance-tls"}},
		Rules: []networking.IngressRule{rule("*.foo.com", path{"/", networking.PathTypePrefix, "wildcard-foo-com"}), byName},
	})
	w.exposed()
	for name, scenario := range map[string]func(*world){
		"a host is served over TLS with its certificate": func(w *world) { w.serves("foo-bar-com", "https", "foo.bar.com", "/") },
		"a host is served":                                 func(w *world) { w.serves("foo-bar-com", "http", "foo.bar.com", "/") },
		"another host is not served":                       func(w *world) { w.unknown("subdomain.bar.com", "/") },
		"a wildcard serves a host with one label more":     func(w *world) { w.serves("wildcard-foo-com", "http", "bar.foo.com", "/") },
		"a wildcard does not serve a host with two labels": func(w *world) { w.unknown("baz.bar.foo.com", "/") },
		"a wildcard does not serve the bare host":          func(w *world) { w.unknown("foo.com", "/") },
	} {
		t.Run(name, func(t *testing.T) {
			scenario(&world{T: t, client: w.client, namespace: w.namespace, address: w.address, roots: w.roots})
		})
	}
}

func TestIngressClass(t *testing.T) {
	t.Run("an Ingress of an unknown class gets no address", func(t *testing.T) {
		w := newWorld(t)
		w.backend("ingress-class-prefix", 1)
		w.create(networking.IngressSpec{
			IngressClassName: ptr.To("some-invalid-class-name"),
			Rules:            []networking.IngressRule{rule("ingress-class", path{"/", networking.PathTypePrefix, "ingress-class-prefix"})},
		})
		for end := time.Now().Add(restraint); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			found, err := w.client.NetworkingV1().Ingresses(w.namespace).Get(t.Context(), "asked", meta.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if points := found.Status.LoadBalancer.Ingress; len(points) > 0 {
				t.Fatalf("it was told %v", points)
			}
		}
	})
}

func TestLoadBalancing(t *testing.T) {
	w := newWorld(t)
	w.backend("echo-service", 1)
	w.create(networking.IngressSpec{DefaultBackend: ptr.To(port("echo-service"))})
	w.exposed()
	scale, err := w.client.AppsV1().Deployments(w.namespace).GetScale(t.Context(), "echo-service", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale.Spec.Replicas = 10
	if _, err := w.client.AppsV1().Deployments(w.namespace).UpdateScale(t.Context(), "echo-service", scale, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ready("echo-service", 10)
	t.Run("a hundred requests reach all of ten pods", func(t *testing.T) {
		w := &world{T: t, client: w.client, namespace: w.namespace, address: w.address}
		w.soon("answers of ten pods", patience, func() error {
			pods := map[string]bool{}
			for range 100 {
				answer, told, err := w.ask(http.MethodGet, "http", "load-balancing", "/")
				if err != nil {
					return err
				}
				if answer.StatusCode != http.StatusOK {
					t.Fatalf("status %d", answer.StatusCode)
				}
				pods[told.Pod] = true
			}
			if len(pods) != 10 {
				return fmt.Errorf("%d pods have answered", len(pods))
			}
			return nil
		})
	})
}

func TestPathRules(t *testing.T) {
	const exact, prefix = networking.PathTypeExact, networking.PathTypePrefix
	w := newWorld(t)
	for _, name := range []string{
		"foo-exact", "foo-prefix", "aaa-slash-bbb-prefix", "aaa-prefix", "aaa-slash-bbb-slash-prefix", "foo-slash-exact",
	} {
		w.backend(name, 1)
	}
	w.create(networking.IngressSpec{Rules: []networking.IngressRule{
		rule("exact-path-rules", path{"/foo", exact, "foo-exact"}),
		rule("prefix-path-rules",
			path{"/foo", prefix, "foo-prefix"}, path{"/aaa/bbb", prefix, "aaa-slash-bbb-prefix"}, path{"/aaa", prefix, "aaa-prefix"}),
		rule("mixed-path-rules", path{"/foo", prefix, "foo-prefix"}, path{"/foo", exact, "foo-exact"}),
		rule("trailing-slash-path-rules",
			path{"/aaa/bbb/", prefix, "aaa-slash-bbb-slash-prefix"}, path{"/foo/", exact, "foo-slash-exact"}),
	}})
	w.exposed()
	// Without a Service: nobody serves it. Twice the same question where the suite asks twice.
	for number, scenario := range []struct{ name, host, path, service string }{
		{"exact: the same path", "exact-path-rules", "/foo", "foo-exact"},
		{"exact: not with a slash at the end", "exact-path-rules", "/foo/", ""},
		{"exact: not in capitals", "exact-path-rules", "/FOO", ""},
		{"exact: not another path", "exact-path-rules", "/bar", ""},
		{"prefix: the same path", "prefix-path-rules", "/foo", "foo-prefix"},
		{"prefix: with a slash at the end", "prefix-path-rules", "/foo/", "foo-prefix"},
		{"prefix: not in capitals", "prefix-path-rules", "/FOO", ""},
		{"prefix: the longest of two", "prefix-path-rules", "/aaa/bbb", "aaa-slash-bbb-prefix"},
		{"prefix: below the longest of two", "prefix-path-rules", "/aaa/bbb/ccc", "aaa-slash-bbb-prefix"},
		{"prefix: below the shorter of two", "prefix-path-rules", "/aaa/ccc", "aaa-prefix"},
		{"prefix: whole elements only", "prefix-path-rules", "/aaaccc", ""},
		{"prefix: with a slash at the end, among others", "prefix-path-rules", "/foo/", "foo-prefix"},
		{"mixed: exact is stronger", "mixed-path-rules", "/foo", "foo-exact"},
		{"prefix that ends with a slash: without it", "trailing-slash-path-rules", "/aaa/bbb", "aaa-slash-bbb-slash-prefix"},
		{"prefix that ends with a slash: with it", "trailing-slash-path-rules", "/aaa/bbb/", "aaa-slash-bbb-slash-prefix"},
		{"exact that ends with a slash: not without it", "trailing-slash-path-rules", "/foo", ""},
	} {
		t.Run(fmt.Sprintf("%02d %s", number+1, scenario.name), func(t *testing.T) {
			w := &world{T: t, client: w.client, namespace: w.namespace, address: w.address}
			if scenario.service == "" {
				w.unknown(scenario.host, scenario.path)
			} else {
				w.serves(scenario.service, "http", scenario.host, scenario.path)
			}
		})
	}
}
