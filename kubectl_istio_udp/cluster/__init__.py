"""What is in the cluster, and writing it: over the room `kube`, which speaks to the API server.

Outwards it speaks manifests (dicts) and model types; every failure leaves it as one of
`model.errors`.
"""
