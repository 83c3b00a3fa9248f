"""What operators see: metrics, spans, and the admin port."""
