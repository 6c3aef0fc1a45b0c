"""The work of each verb of `controller`."""
