"""Rules that report coded findings about a snapshot. Pure.

A code never changes its meaning; docs/checks.md has a paragraph for each.
"""
