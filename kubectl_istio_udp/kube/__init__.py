"""The API server: requests, watches, the Lease, Events; the only room that imports `kubernetes`.

It speaks manifests (dicts); every failure leaves it as one of `model.errors`.
"""
