"""Decisions: which calls are retried, which nodes are left out or used. Pure; they never import grpc."""
