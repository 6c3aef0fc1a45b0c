"""Read requests: from the command line, and from annotations of Services and Namespaces. Pure."""
