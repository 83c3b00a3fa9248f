package main

import (
	"context"

	"github.com/micro/go-micro/client"
	"github.com/micro/go-micro/server"
)

// What protoc-gen-micro would write for the service Peer: its server half
// gives a streaming handler its stream, its client half sends one message
// before a server stream and closes nothing.

// Peer is what is registered; go-micro takes the service's name from the type.
type Peer struct {
	handler *handler
}

func registerPeer(s server.Server, h *handler) error {
	return s.Handle(s.NewHandler(&Peer{h}))
}

// Hello is the unary one.
func (p *Peer) Hello(ctx context.Context, in *Ask, out *Answer) error {
	return p.handler.hello(ctx, in, out)
}

// Feed streams its answers.
func (p *Peer) Feed(ctx context.Context, stream server.Stream) error {
	in := new(Ask)
	if err := stream.Recv(in); err != nil {
		return err
	}
	return p.handler.feed(ctx, in, stream)
}

// Gather streams its requests.
func (p *Peer) Gather(ctx context.Context, stream server.Stream) error {
	return p.handler.gather(ctx, stream)
}

// Talk streams both.
func (p *Peer) Talk(ctx context.Context, stream server.Stream) error {
	return p.handler.talk(ctx, stream)
}

// peerService is the client half.
type peerService struct {
	c    client.Client
	name string
}

func (s *peerService) hello(ctx context.Context, in interface{}, out interface{}, with requestOption, opts ...client.CallOption) error {
	return s.c.Call(ctx, s.c.NewRequest(s.name, "Peer.Hello", in, with), out, opts...)
}

func (s *peerService) feed(ctx context.Context, in interface{}, with requestOption, opts ...client.CallOption) (client.Stream, error) {
	stream, err := s.c.Stream(ctx, s.c.NewRequest(s.name, "Peer.Feed", &Ask{}, with), opts...)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(in); err != nil {
		return nil, err
	}
	return stream, nil
}

func (s *peerService) gather(ctx context.Context, with requestOption, opts ...client.CallOption) (client.Stream, error) {
	return s.c.Stream(ctx, s.c.NewRequest(s.name, "Peer.Gather", &Ask{}, with), opts...)
}

func (s *peerService) talk(ctx context.Context, with requestOption, opts ...client.CallOption) (client.Stream, error) {
	return s.c.Stream(ctx, s.c.NewRequest(s.name, "Peer.Talk", &Ask{}, with), opts...)
}

type requestOption = client.RequestOption
