"""What may be asked of Caveat, and what comes back."""
