"""The work of each verb, imported only when it runs."""
