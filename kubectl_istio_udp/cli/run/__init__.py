"""What each verb does, imported only when it runs."""
