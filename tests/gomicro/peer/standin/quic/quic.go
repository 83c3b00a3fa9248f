// Package quic stands in for a module that no longer compiles and that
// go-micro 1.18 imports for a transport nobody here uses: what that
// transport names is here, and fails.
package quic

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

var errStandIn = errors.New("quic: a stand-in, which connects to nobody")

// Config has the settings that go-micro makes.
type Config struct {
	IdleTimeout time.Duration
	KeepAlive   bool
}

// Stream is never made.
type Stream interface {
	net.Conn
}

// Session is never made.
type Session interface {
	AcceptStream(context.Context) (Stream, error)
	OpenStreamSync(context.Context) (Stream, error)
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
	Close() error
}

// Listener is never made.
type Listener interface {
	Accept(context.Context) (Session, error)
	Addr() net.Addr
	Close() error
}

// DialAddr fails.
func DialAddr(string, *tls.Config, *Config) (Session, error) {
	return nil, errStandIn
}

// ListenAddr fails.
func ListenAddr(string, *tls.Config, *Config) (Listener, error) {
	return nil, errStandIn
}
