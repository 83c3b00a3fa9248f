"""One served call: from grpc's request to the handler, and back."""
