"""Talking to the cluster: the only room that imports the Kubernetes client.

Outwards it speaks manifests (dicts) and model types; every failure leaves it as one of
`model.errors`.
"""
