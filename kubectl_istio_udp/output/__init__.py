"""Format what users and programs read: kubectl's lines, tables, YAML and JSON, progress."""
