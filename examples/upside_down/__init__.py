"""Does a network that tells upside-down lines of text lean on their being upside down?"""
