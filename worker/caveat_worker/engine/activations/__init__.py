"""What the model computes for the examples of an audit: each example once, in batches, kept in an array store."""
