// A go-micro 1.18 service and a client of one, for pymicro's tests.
//
//	peer server [go-micro's flags]
//	peer client [go-micro's flags]
//
// All settings are go-micro's own flags and variables (MICRO_REGISTRY and so
// on), and all that registers, watches, chooses and calls is go-micro's. The
// client reads commands as lines of JSON and answers with lines of JSON
// (commands.go).
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/micro/go-micro"
	"github.com/micro/go-micro/service/grpc"

	// Registers itself under its name.
	_ "github.com/micro/go-plugins/registry/kubernetes"
)

func main() {
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
		// go-micro reads the rest by itself.
		os.Args = append(os.Args[:1], os.Args[2:]...)
	}
	switch command {
	case "server":
		if err := serve(); err != nil {
			log.Fatal(err)
		}
	case "client":
		// A name in code: go-micro says who calls by the name that it has before the flags are read.
		service := grpc.NewService(micro.Name("go.peer.client"))
		service.Init()
		newCommands(service, os.Stdout).follow(os.Stdin)
	default:
		fmt.Fprintln(os.Stderr, "usage: peer server|client [go-micro's flags]")
		os.Exit(2)
	}
}

// serve runs the service until SIGTERM.
func serve() error {
	service := grpc.NewService()
	node := func() string {
		options := service.Server().Options()
		return options.Name + "-" + options.Id
	}
	service.Init(micro.AfterStart(func() error {
		log.Printf("%s is registered", node())
		return nil
	}))
	if err := registerPeer(service.Server(), &handler{node: node}); err != nil {
		return err
	}
	return service.Run()
}
