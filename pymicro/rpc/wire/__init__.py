"""What goes over the wire: statuses, metadata, codecs."""
