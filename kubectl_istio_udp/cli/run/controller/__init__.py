"""What each verb of `controller` does."""
