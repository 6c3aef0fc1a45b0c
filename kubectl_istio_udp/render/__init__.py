"""Render the model to manifests (plain dicts). Pure: the same input gives the same output."""
