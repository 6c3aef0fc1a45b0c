"""Coded findings over a snapshot. Pure: each rule looks, none writes.

A code never changes its meaning; docs/checks.md has a paragraph for each.
"""
