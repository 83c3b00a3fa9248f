package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
)

// greeter answers as the Python servers of benchmarks/server.py do.
type greeter struct {
	address []byte // a HelloReply with its address only
}

func (g *greeter) sayHello(
	_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor,
) (any, error) {
	var request []byte
	if err := decode(&request); err != nil {
		return nil, err
	}
	return &message, nil
}

// greetAll tells its address, so that a client can see which of its nodes are in use.
func (g *greeter) greetAll(_ any, stream grpc.ServerStream) error {
	for {
		var request []byte
		if err := stream.RecvMsg(&request); err == io.EOF {
			return stream.SendMsg(&g.address)
		} else if err != nil {
			return err
		}
	}
}

func (g *greeter) countDown(_ any, stream grpc.ServerStream) error {
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	count, err := from(request)
	if err != nil {
		return err
	}
	one := []byte{0x08, 1}
	for ; count > 0; count-- {
		if err := stream.SendMsg(&one); err != nil {
			return err
		}
	}
	return nil
}

func (g *greeter) chat(_ any, stream grpc.ServerStream) error {
	for {
		var said []byte
		if err := stream.RecvMsg(&said); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(&said); err != nil {
			return err
		}
	}
}

// from is the one field of a CountDownRequest, a varint.
func from(request []byte) (uint64, error) {
	if len(request) == 0 || request[0] != 0x08 {
		return 0, status.Errorf(codes.InvalidArgument, "no CountDownRequest: % x", request)
	}
	var count uint64
	for place, part := range request[1:] {
		count |= uint64(part&0x7f) << (7 * place)
	}
	return count, nil
}

func (g *greeter) service() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "greeter.v1.Greeter",
		HandlerType: (*any)(nil), // any handler will do
		Methods:     []grpc.MethodDesc{{MethodName: "SayHello", Handler: g.sayHello}},
		Streams: []grpc.StreamDesc{
			{StreamName: "GreetAll", Handler: g.greetAll, ClientStreams: true},
			{StreamName: "CountDown", Handler: g.countDown, ServerStreams: true},
			{StreamName: "Chat", Handler: g.chat, ClientStreams: true, ServerStreams: true},
		},
	}
}

func serve(ports int, secured credentials.TransportCredentials) {
	var addresses []string
	for range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		address := listener.Addr().String()
		server := grpc.NewServer(grpc.Creds(secured), grpc.ForceServerCodecV2(encoding.CodecV2(raw{})))
		g := &greeter{address: append([]byte{0x12, byte(len(address))}, address...)}
		server.RegisterService(g.service(), g)
		go func() { log.Fatal(server.Serve(listener)) }()
		addresses = append(addresses, address)
	}
	listed, err := json.Marshal(addresses)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(listed))
	lines(func(string) string { return fmt.Sprint(cpu()) })
}

// cpu is the CPU seconds that this process has used.
func cpu() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		log.Fatal(err)
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}
