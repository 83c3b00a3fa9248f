"""The serving end: dispatch, health, reflection, life cycle."""
