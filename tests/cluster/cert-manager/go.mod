module pymicro.test/cert-manager

go 1.25

// Nothing of it is built: it has the custom resources of deploy/greeter-mtls-cert-manager (scripts/custom-resources).
require github.com/cert-manager/cert-manager v1.19.1
