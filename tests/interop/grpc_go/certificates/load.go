// Package certificates reads what either end shows and believes.
package certificates

import (
	"crypto/tls"
	"crypto/x509"
	"log"
	"os"
)

// Load reads a certificate with its key, and the authorities that are believed; it ends the process if it cannot.
func Load(cert, key, ca string) (tls.Certificate, *x509.CertPool) {
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		log.Fatal(err)
	}
	believed, err := os.ReadFile(ca)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(believed) {
		log.Fatalf("%s has no certificate", ca)
	}
	return own, pool
}
