"""Certificates: which ones this process has, and whether they may be used."""
