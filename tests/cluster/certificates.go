package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// pki is the path of a certificate, a key or a kubeconfig.
func pki(name string) string { return filepath.Join(pkiFolder, name) }

// authority signs everything in the rig; it lives as long as the rig does.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// makeCertificates writes every certificate, key and kubeconfig of the cluster.
func makeCertificates() error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	serverNames := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	serverAddresses := []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(nodeIP), net.ParseIP(serviceIP)}
	for _, leaf := range []struct {
		file      string
		subject   pkix.Name
		names     []string
		addresses []net.IP
	}{
		{"apiserver", pkix.Name{CommonName: "kube-apiserver"}, serverNames, serverAddresses},
		{"kubelet", pkix.Name{CommonName: nodeName}, []string{nodeName}, []net.IP{net.ParseIP(nodeIP)}},
		{"apiserver-kubelet", pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}}, nil, nil},
		{"front-proxy", pkix.Name{CommonName: "front-proxy"}, nil, nil},
		{"admin", pkix.Name{CommonName: "rig-admin", Organization: []string{"system:masters"}}, nil, nil},
		{"node", pkix.Name{CommonName: "rig-kubelet", Organization: []string{"system:masters"}}, nil, nil},
		{"controllers", pkix.Name{CommonName: "system:kube-controller-manager"}, nil, nil},
	} {
		if err := ca.issue(leaf.file, leaf.subject, leaf.names, leaf.addresses); err != nil {
			return err
		}
	}
	for _, user := range []string{"admin", "node", "controllers"} {
		if err := writeKubeconfig(user); err != nil {
			return err
		}
	}
	return writeAccountKeys()
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := template(pkix.Name{CommonName: "weir-rig"})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{certificate, key}, writePEM("ca.crt", "CERTIFICATE", der)
}

// issue writes file.crt and file.key.
func (a *authority) issue(file string, subject pkix.Name, names []string, addresses []net.IP) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := template(subject)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames, template.IPAddresses = names, addresses
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	if err := writePEM(file+".crt", "CERTIFICATE", der); err != nil {
		return err
	}
	return writeKey(file+".key", key)
}

func template(subject pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail on Linux
	}
	now := time.Now()
	// Wide on both sides: tests move the clock.
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(5, 0, 0)}
}

// writeAccountKeys makes the pair that signs and checks the tokens of service accounts.
func writeAccountKeys() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := writePEM("accounts.pub", "PUBLIC KEY", public); err != nil {
		return err
	}
	return writeKey("accounts.key", key)
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(file, "EC PRIVATE KEY", der)
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(pki(file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// writeKubeconfig writes USER.kubeconfig with everything inside, so that the file may be copied anywhere.
func writeKubeconfig(user string) error {
	read := func(name string) []byte {
		content, err := os.ReadFile(pki(name))
		if err != nil {
			panic(err) // written a moment ago by this process
		}
		return content
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["rig"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: read("ca.crt")}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: read(user + ".crt"), ClientKeyData: read(user + ".key")}
	config.Contexts["rig"] = &clientcmdapi.Context{Cluster: "rig", AuthInfo: user, Namespace: "default"}
	config.CurrentContext = "rig"
	return clientcmd.WriteToFile(*config, pki(user+".kubeconfig"))
}
