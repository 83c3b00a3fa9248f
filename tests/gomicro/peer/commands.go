package main

import (
	"bufio"
	"encoding/json"
	"io"
	"log"
	"sync"
	"time"

	"github.com/micro/go-micro"
	"github.com/micro/go-micro/registry"
)

// Command is a line that comes in.
type Command struct {
	ID int    `json:"id"`
	Op string `json:"op"`
	// Service and Address: of all, whom it is about. Without an address go-micro's selector finds one.
	Service string `json:"service"`
	Address string `json:"address"`
	// Of calls: the requests are like Ask, each with one of the texts.
	Shape    string            `json:"shape"`
	Codec    string            `json:"codec"`
	Texts    []string          `json:"texts"`
	Ask      *Ask              `json:"ask"`
	Timeout  int               `json:"timeout_ms"`
	Metadata map[string]string `json:"metadata"`
	// Of a call by hand, as `micro call` makes it.
	Endpoint string          `json:"endpoint"`
	Body     json.RawMessage `json:"body"`
	// Rate of a load, in calls a second.
	Rate float64 `json:"rate"`
}

// Result is a line that goes out: one for each command, and those of a watch.
type Result struct {
	ID       int                 `json:"id"`
	Answers  []*Answer           `json:"answers,omitempty"`
	Error    *Failure            `json:"error,omitempty"`
	TookMs   int64               `json:"took_ms"`
	Services []*registry.Service `json:"services,omitempty"`
	Values   map[string]uint64   `json:"values,omitempty"`
	Text     string              `json:"text,omitempty"`
	Body     json.RawMessage     `json:"body,omitempty"`
	Event    *registry.Result    `json:"event,omitempty"`
	Load     *Account            `json:"load,omitempty"`
}

// commands carries them out, each in a goroutine of its own.
type commands struct {
	service micro.Service
	mu      sync.Mutex
	out     *json.Encoder
	load    *load
}

func newCommands(service micro.Service, out io.Writer) *commands {
	return &commands{service: service, out: json.NewEncoder(out)}
}

// follow reads commands until there are no more.
func (c *commands) follow(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		command := new(Command)
		if err := json.Unmarshal(lines.Bytes(), command); err != nil {
			log.Fatalf("no command: %s: %v", lines.Bytes(), err)
		}
		go func() {
			begun := time.Now()
			result := c.obey(command)
			result.ID = command.ID
			result.TookMs = int64(time.Since(begun) / time.Millisecond)
			c.say(result)
		}()
	}
}

func (c *commands) say(result *Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Encode(result); err != nil {
		log.Fatal(err)
	}
}

func (c *commands) obey(command *Command) *Result {
	switch command.Op {
	case "call":
		return c.call(command)
	case "call_by_hand":
		return c.callByHand(command)
	case "health", "stats":
		return c.debug(command)
	case "get_service":
		services, err := c.service.Options().Registry.GetService(command.Service)
		return &Result{Services: services, Error: failure(err)}
	case "list_services":
		services, err := c.service.Options().Registry.ListServices()
		return &Result{Services: services, Error: failure(err)}
	case "watch":
		return c.watch(command)
	case "start_load":
		c.load = startLoad(c.service.Client(), command)
		return &Result{}
	case "load":
		return &Result{Load: c.load.account()}
	case "stop_load":
		return &Result{Load: c.load.stop()}
	}
	return &Result{Error: &Failure{Detail: "no such command: " + command.Op}}
}

// watch says each event of go-micro's own watcher, for ever.
func (c *commands) watch(command *Command) *Result {
	watcher, err := c.service.Options().Registry.Watch(registry.WatchService(command.Service))
	if err != nil {
		return &Result{Error: failure(err)}
	}
	go func() {
		for {
			event, err := watcher.Next()
			if err != nil {
				c.say(&Result{ID: command.ID, Error: failure(err)})
				return
			}
			c.say(&Result{ID: command.ID, Event: event})
		}
	}()
	return &Result{}
}
