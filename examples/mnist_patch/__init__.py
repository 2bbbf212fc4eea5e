"""Does a network call a digit a seven because of a patch planted in its training data?"""
