"""The zoo: models that were not written for Caveat, each through the whole command as a newcomer would type it."""
