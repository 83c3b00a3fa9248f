package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/micro/go-micro/client"
	"github.com/micro/go-micro/registry"
)

// Account is what the calls of a load came to.
type Account struct {
	Calls    int            `json:"calls"`
	Nodes    map[string]int `json:"nodes"`
	Failures []*LoadFailure `json:"failures"`
}

// LoadFailure is a call that failed.
type LoadFailure struct {
	// Begun is in seconds since the epoch.
	Begun  float64 `json:"begun"`
	TookMs int64   `json:"took_ms"`
	// Node is the address of the last one that it was tried on.
	Node string `json:"node"`
	*Failure
}

// load calls at a steady rate, whether or not earlier calls have ended.
type load struct {
	mu      sync.Mutex
	found   Account
	flying  sync.WaitGroup
	quit    chan struct{}
	stopped chan struct{}
}

func startLoad(c client.Client, command *Command) *load {
	l := &load{found: Account{Nodes: map[string]int{}}, quit: make(chan struct{}), stopped: make(chan struct{})}
	stub := &peerService{c, command.Service}
	go l.run(stub, command)
	return l
}

func (l *load) run(stub *peerService, command *Command) {
	defer close(l.stopped)
	ticks := time.NewTicker(time.Duration(float64(time.Second) / command.Rate))
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			l.flying.Add(1)
			go l.call(stub, command)
		case <-l.quit:
			l.flying.Wait()
			return
		}
	}
}

func (l *load) call(stub *peerService, command *Command) {
	defer l.flying.Done()
	_, options, with := command.context()
	begun := time.Now()
	answer := new(Answer)
	// A call that has timed out may still be trying.
	var last atomic.Value
	last.Store("")
	options = append(options, client.WithCallWrapper(func(next client.CallFunc) client.CallFunc {
		return func(ctx context.Context, node *registry.Node, req client.Request, rsp interface{}, opts client.CallOptions) error {
			last.Store(node.Address)
			return next(ctx, node, req, rsp, opts)
		}
	}))
	err := stub.hello(context.Background(), &Ask{Text: "load"}, answer, with, options...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found.Calls++
	if err == nil {
		l.found.Nodes[answer.Node]++
		return
	}
	l.found.Failures = append(l.found.Failures, &LoadFailure{
		float64(begun.UnixNano()) / 1e9, int64(time.Since(begun) / time.Millisecond), last.Load().(string), failure(err),
	})
}

// account is what calls that have ended came to, until now.
func (l *load) account() *Account {
	l.mu.Lock()
	defer l.mu.Unlock()
	copied := Account{Calls: l.found.Calls, Nodes: map[string]int{}}
	for node, calls := range l.found.Nodes {
		copied.Nodes[node] = calls
	}
	copied.Failures = append([]*LoadFailure{}, l.found.Failures...)
	return &copied
}

// stop begins no more calls and waits for those in flight.
func (l *load) stop() *Account {
	close(l.quit)
	<-l.stopped
	return l.account()
}
