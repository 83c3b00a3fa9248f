"""Decisions about calls: try again or not, who is out, who is in. Pure; they never import grpc."""
