"""One form of interceptor for all four call shapes, on each side."""
