"""What becomes of a request: from the request and a snapshot of the state. Pure."""
