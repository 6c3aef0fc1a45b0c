"""What there is in the cluster, and whose it is. Pure."""
