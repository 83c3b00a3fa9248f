"""From settings to a running process: one life of a service, what it writes to the log, who supervises it."""
