"""Two versions of a model side by side: what they decide, and how alike their layers are."""
