// grpc-go's interop server on a port of 127.0.0.1 that the system chooses; its first line of output
// is the address. grpc-go's own program for it (interop/server) listens on every interface.
//
//	server                  in plain text
//	server CERT KEY CA      shows this certificate, and serves only callers with one of this authority
package main

import (
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"pymicro.test/interop/certificates"
)

func main() {
	log.SetFlags(0)
	var options []grpc.ServerOption
	switch len(os.Args) {
	case 1:
	case 4:
		options = append(options, grpc.Creds(secured(os.Args[1], os.Args[2], os.Args[3])))
	default:
		log.Fatal("usage: server [CERT KEY CA]")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	fmt.Println(listener.Addr())
	log.Fatal(server.Serve(listener))
}

func secured(cert, key, ca string) credentials.TransportCredentials {
	own, pool := certificates.Load(cert, key, ca)
	return credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{own},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   tls.VersionTLS12,
	})
}
