# my_plugins/__init__.py
"""Plug-ins of ours for pymicro."""
