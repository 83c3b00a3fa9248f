"""The registries. Each module is one, and imports what it needs when it is used."""
