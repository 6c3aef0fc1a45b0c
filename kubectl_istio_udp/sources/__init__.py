"""What is asked for: on the command line, in a Service's annotations, in a Namespace's. Pure."""
