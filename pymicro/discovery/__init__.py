"""Finds the nodes of services: registries and selectors, and the directory between them."""
