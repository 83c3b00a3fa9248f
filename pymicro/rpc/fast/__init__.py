"""What the two ends of transport `fast` share."""
