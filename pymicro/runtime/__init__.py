"""From settings to a running process: one life of a service, its log, and its supervisor."""
