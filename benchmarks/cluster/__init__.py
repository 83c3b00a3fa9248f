"""Discovery on a real API server, side by side with what else Python has.

`python -m benchmarks.cluster` needs the control plane that `make bench-cluster`
builds, and the package `kubernetes` for the comparison.
"""
