module pymicro.test/monitor

go 1.25

// Nothing of it is built: it has the custom resource of deploy/pod-monitor (scripts/custom-resources).
require github.com/prometheus-operator/prometheus-operator v0.85.0
