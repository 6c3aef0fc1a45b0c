"""Change the cluster: what is created, changed and deleted, in which order, and how to undo it."""
