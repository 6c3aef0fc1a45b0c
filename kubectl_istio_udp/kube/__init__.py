"""The client of the API server: requests, watches, leader election, Events.

Objects are manifests (dicts). Every failure is raised as one of `model.errors`.
"""
