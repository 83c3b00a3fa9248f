// The fast end of the benchmarks: a Go server for Python clients, and a Go client for Python servers.
//
//	peer serve PORTS [CERT KEY CA]      prints its addresses as one line of JSON; each line read is
//	                                    answered with the CPU seconds used so far
//	peer load ADDRESS [CERT KEY CA]     each line read, "METHOD IN_FLIGHT COUNT LENGTH", makes that many
//	                                    calls, with texts of that length, and is answered with the seconds
//	                                    they took
//
// With the files of a certificate, its key and an authority both ends have to show a certificate. The end of stdin ends both, so that they never outlive the benchmark.
//
// Messages are bytes as they stand on the wire, so there is no generated code here: the peer
// has to be fast, and nothing in it depends on what a message says but the length of CountDown.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"strconv"

	"google.golang.org/grpc/mem"
)

// message is a text of 62 bytes, 64 with tag and length, as in benchmarks/greeter.py.
var message = textOf(62)

// textOf is field 1 of any of the greeter's messages that are a text.
func textOf(length int) []byte {
	made := binary.AppendUvarint([]byte{0x0a}, uint64(length))
	return append(made, bytes.Repeat([]byte{'x'}, length)...)
}

// raw hands bytes through, under protobuf's name.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// lines answers each line of stdin until it ends.
func lines(answer func(line string) string) {
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		fmt.Println(answer(input.Text()))
	}
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 && len(os.Args) != 6 {
		log.Fatal("usage: peer serve PORTS [CERT KEY CA] | peer load ADDRESS [CERT KEY CA]")
	}
	credentials := secured(os.Args[3:])
	switch os.Args[1] {
	case "serve":
		ports, err := strconv.Atoi(os.Args[2])
		if err != nil {
			log.Fatalf("the number of ports is no number: %v", err)
		}
		serve(ports, credentials)
	case "load":
		load(os.Args[2], credentials)
	default:
		log.Fatalf("neither serve nor load: %s", os.Args[1])
	}
}
