"""A real Envoy on this machine: says what it accepts, and is a gateway without a cluster."""
