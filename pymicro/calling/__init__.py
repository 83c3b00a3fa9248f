"""The calling end: a grpc.aio channel that picks a node for each call."""
