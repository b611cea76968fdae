// A connection to one agent by mutual TLS, and what its errors say.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// The largest block with its envelope; gRPC's default of 4 MiB is too small for it.
const maxMessage = 4<<20 + 64<<10

func connect(target, pki string) (*grpc.ClientConn, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "client.pem"), filepath.Join(pki, "client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(pki, "ca.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("no certificate in ca.pem")
	}
	transport := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots})
	// Who only waits, notices a dead agent by pings.
	ping := keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}
	return grpc.Dial(target, grpc.WithTransportCredentials(transport), grpc.WithKeepaliveParams(ping),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
}

// told is what the agent means by an error: its code (empty: the agent did not say it), what is still owed, when to try again.
func told(err error) (code, cleanup string, retry time.Duration) {
	cleanup = "unknown"
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.Domain == "hotadd" {
				code, cleanup = detail.Reason, detail.Metadata["cleanup"]
			}
		case *errdetails.RetryInfo:
			retry = time.Duration(detail.RetryDelay.GetSeconds()) * time.Second
		}
	}
	return code, cleanup, retry
}

func fail(err error) {
	code, cleanup, retry := told(err)
	fmt.Fprintf(os.Stderr, "%s %v (cleanup: %s, retry after: %v)\n", code, err, cleanup, retry)
	os.Exit(1)
}
