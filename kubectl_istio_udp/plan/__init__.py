"""Plan the objects to create, from a request and a snapshot of the cluster. Pure."""
