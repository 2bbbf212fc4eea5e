"""What is kept: bytes by their digest, and the record of every job."""
