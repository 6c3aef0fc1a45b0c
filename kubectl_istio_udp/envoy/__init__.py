"""A real Envoy on this machine: it checks EnvoyFilters, and is the gateway of `demo`."""
