package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
)

const service = "/greeter.v1.Greeter/"

var up = grpc.StreamDesc{ClientStreams: true}
var down = grpc.StreamDesc{ServerStreams: true}
var both = grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// Done with a connection: `count` calls with `inFlight` at a time, or one stream of `count` messages.
var works = map[string]func(connection *grpc.ClientConn, inFlight, count int) error{
	"SayHello": func(connection *grpc.ClientConn, inFlight, count int) error {
		return atATime(inFlight, count, func() error { return sayHello(connection) })
	},
	"GreetAll": func(connection *grpc.ClientConn, inFlight, count int) error {
		return atATime(inFlight, count, func() error { return greetAll(connection) })
	},
	"CountDown": func(connection *grpc.ClientConn, _, count int) error { return countDown(connection, count) },
	"Chat":      func(connection *grpc.ClientConn, _, count int) error { return chat(connection, count) },
}

// atATime makes `count` calls, `inFlight` at a time, and stops at the first that fails.
func atATime(inFlight, count int, call func() error) error {
	var left atomic.Int64
	left.Store(int64(count))
	failed := make(chan error, inFlight)
	var all sync.WaitGroup
	for range inFlight {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := call(); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed
}

func sayHello(connection *grpc.ClientConn) error {
	var reply []byte
	return connection.Invoke(context.Background(), service+"SayHello", &message, &reply)
}

// greetAll streams one message.
func greetAll(connection *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := connection.NewStream(ctx, &up, service+"GreetAll")
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&message); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var reply []byte
	return stream.RecvMsg(&reply)
}

func countDown(connection *grpc.ClientConn, count int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := connection.NewStream(ctx, &down, service+"CountDown")
	if err != nil {
		return err
	}
	request := []byte{0x08}
	rest := uint64(count)
	for ; rest > 0x7f; rest >>= 7 {
		request = append(request, byte(rest)|0x80)
	}
	request = append(request, byte(rest))
	if err := stream.SendMsg(&request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return read(stream, count)
}

// chat sends and reads at once.
func chat(connection *grpc.ClientConn, count int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := connection.NewStream(ctx, &both, service+"Chat")
	if err != nil {
		return err
	}
	go func() {
		for range count {
			if stream.SendMsg(&message) != nil {
				return // the reader sees why
			}
		}
		_ = stream.CloseSend()
	}()
	return read(stream, count)
}

// read reads a stream of `count` messages to its end.
func read(stream grpc.ClientStream, count int) error {
	for seen := 0; ; seen++ {
		var reply []byte
		if err := stream.RecvMsg(&reply); err == io.EOF && seen == count {
			return nil
		} else if err == io.EOF {
			return fmt.Errorf("the stream ended after %d of %d messages", seen, count)
		} else if err != nil {
			return err
		}
	}
}

func load(address string, secured credentials.TransportCredentials) {
	connection, err := grpc.NewClient(
		"passthrough:///"+address,
		grpc.WithTransportCredentials(secured),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(encoding.CodecV2(raw{}))),
	)
	if err != nil {
		log.Fatal(err)
	}
	lines(func(line string) string {
		var method string
		var inFlight, count, length int
		if _, err := fmt.Sscan(line, &method, &inFlight, &count, &length); err != nil {
			log.Fatalf("no METHOD IN_FLIGHT COUNT LENGTH: %q", line)
		}
		message = textOf(length)
		work, known := works[method]
		if !known {
			log.Fatalf("no such method: %s", method)
		}
		begun := time.Now()
		if err := work(connection, inFlight, count); err != nil {
			log.Fatalf("%s: %v", method, err)
		}
		return fmt.Sprint(time.Since(begun).Seconds())
	})
}
