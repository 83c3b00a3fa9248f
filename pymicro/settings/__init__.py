"""Settings, their kinds of values, and plug-ins by name."""
