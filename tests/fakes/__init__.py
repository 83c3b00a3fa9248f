"""Fakes that speak the real protocol over real sockets, and pass the real thing's contract suite."""
