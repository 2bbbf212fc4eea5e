"""Does a network that detects upside-down text depend on the direction of the text, and not on faded print?"""
