package main

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/golang/protobuf/proto"
	"github.com/micro/go-micro/client"
	debug "github.com/micro/go-micro/debug/service/proto"
	"github.com/micro/go-micro/errors"
	"github.com/micro/go-micro/metadata"
	"google.golang.org/grpc/status"
)

const rawBytes = "application/grpc+bytes"

// Failure is an error as a Go user sees it.
type Failure struct {
	ID     string `json:"id"`
	Code   int32  `json:"code"`
	Detail string `json:"detail"`
	Status string `json:"status"`
	// Type is Go's, GRPC the status of an error that is still grpc's: a stream's.
	Type string `json:"type"`
	GRPC string `json:"grpc,omitempty"`
}

func failure(err error) *Failure {
	if err == nil {
		return nil
	}
	found, ok := err.(*errors.Error)
	if ok {
		return &Failure{found.Id, found.Code, found.Detail, found.Status, "*errors.Error", ""}
	}
	if s, ok := status.FromError(err); ok {
		// go-micro hands these over as they are; its users parse the text.
		found = errors.Parse(s.Message())
		return &Failure{found.Id, found.Code, found.Detail, found.Status, "status", s.Code().String()}
	}
	return &Failure{Detail: err.Error(), Type: "error"}
}

// message is a request or a response in a codec: a message, or a pointer to
// the bytes of one where go-micro's codec takes nothing else.
func (c *Command) message(ask *Ask) (interface{}, error) {
	if c.Codec != rawBytes {
		return ask, nil
	}
	raw, err := proto.Marshal(ask)
	return &raw, err
}

func (c *Command) receive(recv func(interface{}) error) (*Answer, error) {
	answer := new(Answer)
	if c.Codec != rawBytes {
		return answer, recv(answer)
	}
	raw := new([]byte)
	if err := recv(raw); err != nil {
		return nil, err
	}
	return answer, proto.Unmarshal(*raw, answer)
}

func (c *Command) requests() ([]interface{}, error) {
	ask := c.Ask
	if ask == nil {
		ask = &Ask{}
	}
	var found []interface{}
	for _, text := range c.Texts {
		one := *ask
		one.Text = text
		message, err := c.message(&one)
		if err != nil {
			return nil, err
		}
		found = append(found, message)
	}
	return found, nil
}

func (c *Command) context() (context.Context, []client.CallOption, requestOption) {
	var options []client.CallOption
	if c.Address != "" {
		options = append(options, client.WithAddress(c.Address))
	}
	if c.Timeout > 0 {
		options = append(options, client.WithRequestTimeout(time.Duration(c.Timeout)*time.Millisecond))
	}
	ctx := context.Background()
	if c.Metadata != nil {
		ctx = metadata.NewContext(ctx, metadata.Metadata(c.Metadata))
	}
	with := func(o *client.RequestOptions) {}
	if c.Codec != "" {
		with = client.WithContentType(c.Codec)
	}
	return ctx, options, with
}

func (c *commands) call(command *Command) *Result {
	answers, err := c.exchange(command)
	return &Result{Answers: answers, Error: failure(err)}
}

// exchange makes one call; answers that came before an error are kept.
func (c *commands) exchange(command *Command) ([]*Answer, error) {
	requests, err := command.requests()
	if err != nil {
		return nil, err
	}
	ctx, options, with := command.context()
	stub := &peerService{c.service.Client(), command.Service}
	var stream client.Stream
	switch command.Shape {
	case "unary":
		answer, err := command.receive(func(out interface{}) error {
			return stub.hello(ctx, requests[0], out, with, options...)
		})
		if err != nil {
			return nil, err
		}
		return []*Answer{answer}, nil
	case "server stream":
		stream, err = stub.feed(ctx, requests[0], with, options...)
	case "client stream":
		stream, err = stub.gather(ctx, with, options...)
		if err == nil {
			err = sendAll(stream, requests)
		}
	case "bidi":
		return c.converse(ctx, command, stub, requests, with, options)
	default:
		return nil, errors.New("peer", "no such shape: "+command.Shape, 400)
	}
	if err != nil {
		return nil, err
	}
	return command.receiveAll(stream)
}

// converse waits for each answer before it says the next.
func (c *commands) converse(ctx context.Context, command *Command, stub *peerService, requests []interface{}, with requestOption, options []client.CallOption) ([]*Answer, error) {
	stream, err := stub.talk(ctx, with, options...)
	if err != nil {
		return nil, err
	}
	var answers []*Answer
	for _, request := range requests {
		if err := stream.Send(request); err != nil {
			return answers, err
		}
		answer, err := command.receive(stream.Recv)
		if err != nil {
			return answers, err
		}
		answers = append(answers, answer)
	}
	if err := stream.Close(); err != nil {
		return answers, err
	}
	rest, err := command.receiveAll(stream)
	return append(answers, rest...), err
}

func sendAll(stream client.Stream, requests []interface{}) error {
	for _, request := range requests {
		if err := stream.Send(request); err != nil {
			return err
		}
	}
	return stream.Close()
}

func (c *Command) receiveAll(stream client.Stream) ([]*Answer, error) {
	var answers []*Answer
	for {
		answer, err := c.receive(stream.Recv)
		if err == io.EOF {
			return answers, nil
		}
		if err != nil {
			return answers, err
		}
		answers = append(answers, answer)
	}
}

// callByHand sends and takes JSON of which it knows no type, as `micro call`
// and go-micro's API gateway do.
func (c *commands) callByHand(command *Command) *Result {
	ctx, options, _ := command.context()
	request := c.service.Client().NewRequest(
		command.Service, command.Endpoint, &command.Body, client.WithContentType("application/json"),
	)
	var answer json.RawMessage
	err := c.service.Client().Call(ctx, request, &answer, options...)
	return &Result{Body: answer, Error: failure(err)}
}

// debug asks as go-micro's health sidecar does.
func (c *commands) debug(command *Command) *Result {
	ctx, options, _ := command.context()
	stub := debug.NewDebugService(command.Service, c.service.Client())
	if command.Op == "health" {
		answer, err := stub.Health(ctx, &debug.HealthRequest{}, options...)
		return &Result{Text: answer.GetStatus(), Error: failure(err)}
	}
	answer, err := stub.Stats(ctx, &debug.StatsRequest{}, options...)
	if err != nil {
		return &Result{Error: failure(err)}
	}
	values := map[string]uint64{}
	text, err := json.Marshal(answer)
	if err == nil {
		err = json.Unmarshal(text, &values)
	}
	return &Result{Values: values, Error: failure(err)}
}
