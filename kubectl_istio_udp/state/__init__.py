"""What exists in the cluster, and who owns it.

It is read from the API server, from the controller's watch caches, or from files. Readers return
manifests (dicts) and model types. Every failure is one of `model.errors`. `ownership`, `occupancy`
and `reservations` are pure.
"""
