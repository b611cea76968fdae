// vcsim: VMware's own vCenter simulator (the simulator package of govmomi, as Debian ships it) behind TLS, for the
// contract test of the vSphere client. Code that is not ours judges our requests.
//
// Build: GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=<scratch> go build -o <binary> ./tests/contract/vcsim
// Packages: golang-go, golang-github-vmware-govmomi-dev.
//
// Prints one line, "<url> <sha256 of the certificate>", then serves until its standard input ends, so that it never
// outlives the test that started it.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	user := flag.String("user", "backup", "the only user")
	password := flag.String("password", "secret", "its password")
	quiet := flag.Bool("quiet", true, "no log of every call")
	flag.Parse()
	if *quiet {
		log.SetOutput(io.Discard)
	}

	model := simulator.VPX()
	model.Machine = 3
	if err := model.Create(); err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		os.Exit(1)
	}
	defer model.Remove()

	service := model.Service
	certificate, err := selfSigned()
	if err != nil {
		fmt.Fprintln(os.Stderr, "certificate:", err)
		os.Exit(1)
	}
	service.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(*user, *password)}
	server := service.NewServer()
	defer server.Close()

	address := *server.URL
	address.User = nil
	sum := sha256.Sum256(server.Certificate().Raw)
	fmt.Println(address.String(), hex.EncodeToString(sum[:]))

	// End of input: the test is over or dead.
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// selfSigned makes a certificate for this run: the one that the package brings has a key of 1024 bits, which the client's
// TLS library refuses.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "vcsim"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
