"""The demo's inputs, built from packages on the registries: real networks, real photographs, real decisions."""
