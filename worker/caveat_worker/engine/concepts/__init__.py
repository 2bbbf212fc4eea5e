"""Concept activation vectors and their tests, in Gram space; interventions on activations and on examples."""
