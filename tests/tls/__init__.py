"""Services and clients whose connections are encrypted."""
