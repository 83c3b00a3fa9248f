// A client of grpc-go that shows a certificate, which grpc-go's own interop client cannot: it makes the
// cases that it is given, all over one connection, and prints the name of each that was done.
//
//	caller ADDRESS NAME CERT KEY CA CASE…     NAME is the one that the server's certificate must have
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"pymicro.test/interop/certificates"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 7 {
		log.Fatal("usage: caller ADDRESS NAME CERT KEY CA CASE…")
	}
	address, name, cert, key, ca := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	own, pool := certificates.Load(cert, key, ca)
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{own},
		RootCAs:      pool,
		ServerName:   name,
		MinVersion:   tls.VersionTLS12,
	})))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, client := context.Background(), testgrpc.NewTestServiceClient(connection)
	cases := map[string]func(){
		"empty_unary":                 func() { interop.DoEmptyUnaryCall(ctx, client) },
		"large_unary":                 func() { interop.DoLargeUnaryCall(ctx, client) },
		"client_streaming":            func() { interop.DoClientStreaming(ctx, client) },
		"server_streaming":            func() { interop.DoServerStreaming(ctx, client) },
		"ping_pong":                   func() { interop.DoPingPong(ctx, client) },
		"empty_stream":                func() { interop.DoEmptyStream(ctx, client) },
		"timeout_on_sleeping_server":  func() { interop.DoTimeoutOnSleepingServer(ctx, client) },
		"cancel_after_begin":          func() { interop.DoCancelAfterBegin(ctx, client) },
		"cancel_after_first_response": func() { interop.DoCancelAfterFirstResponse(ctx, client) },
		"status_code_and_message":     func() { interop.DoStatusCodeAndMessage(ctx, client) },
		"special_status_message":      func() { interop.DoSpecialStatusMessage(ctx, client) },
		"custom_metadata":             func() { interop.DoCustomMetadata(ctx, client) },
		"unimplemented_method":        func() { interop.DoUnimplementedMethod(ctx, connection) },
		"unimplemented_service":       func() { interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(connection)) },
	}
	for _, wanted := range os.Args[6:] {
		run, known := cases[wanted]
		if !known {
			log.Fatalf("no case is called %s", wanted)
		}
		run()
		fmt.Println(wanted)
	}
}
