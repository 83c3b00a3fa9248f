package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/micro/go-micro/errors"
	"github.com/micro/go-micro/metadata"
	"github.com/micro/go-micro/server"
)

// failing is the id of errors that were asked for.
const failing = "go.peer.failing"

type handler struct {
	node func() string
	// cancelled counts sleeps that ended because the caller went away.
	cancelled int64
}

// respond sleeps, fails or answers, as it was asked to.
func (h *handler) respond(ctx context.Context, in *Ask, text string, out *Answer) error {
	if in.SleepMs > 0 {
		select {
		case <-time.After(time.Duration(in.SleepMs) * time.Millisecond):
		case <-ctx.Done():
			atomic.AddInt64(&h.cancelled, 1)
			return ctx.Err()
		}
	}
	if err := asked(in.Code); err != nil {
		return err
	}
	out.Text = text
	out.Node = h.node()
	out.Saw = map[string]string{"cancelled": fmt.Sprint(atomic.LoadInt64(&h.cancelled))}
	if md, ok := metadata.FromContext(ctx); ok {
		for key, value := range md {
			out.Saw[key] = value
		}
	}
	for key, value := range in.Tags {
		out.Saw["tag-"+key] = value
	}
	if deadline, ok := ctx.Deadline(); ok {
		out.LeftMs = int64(time.Until(deadline) / time.Millisecond)
	}
	return nil
}

// asked is the error with a code: -1 for a plain one, nil for 0.
func asked(code int32) error {
	switch code {
	case 0:
		return nil
	case -1:
		return stderrors.New("a plain error")
	}
	return errors.New(failing, fmt.Sprintf("as asked: %d, \"quoted\" & ünïcode", code), code)
}

func (h *handler) hello(ctx context.Context, in *Ask, out *Answer) error {
	return h.respond(ctx, in, "Hello "+in.Text, out)
}

// feed answers Count times and then fails, if it is to.
func (h *handler) feed(ctx context.Context, in *Ask, stream server.Stream) error {
	for i := int32(1); i <= in.Count; i++ {
		out := new(Answer)
		if err := h.respond(ctx, &Ask{SleepMs: in.SleepMs, Tags: in.Tags}, fmt.Sprintf("%s %d", in.Text, i), out); err != nil {
			return err
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
	return asked(in.Code)
}

// gather answers once, when all has been said.
func (h *handler) gather(ctx context.Context, stream server.Stream) error {
	var texts []string
	last := new(Ask)
	for {
		in := new(Ask)
		if err := stream.Recv(in); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		texts, last = append(texts, in.Text), in
	}
	out := new(Answer)
	if err := h.respond(ctx, last, strings.Join(texts, ", "), out); err != nil {
		return err
	}
	return stream.Send(out)
}

// talk answers each as it comes.
func (h *handler) talk(ctx context.Context, stream server.Stream) error {
	for {
		in := new(Ask)
		if err := stream.Recv(in); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		out := new(Answer)
		if err := h.respond(ctx, in, "You said: "+in.Text, out); err != nil {
			return err
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}
