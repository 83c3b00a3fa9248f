"""Balancers: which node a call takes. Pure; they never import grpc."""
