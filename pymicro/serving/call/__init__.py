"""One call served: from what grpc hands over to the handler, and back."""
