"""Does a network call a digit a seven because of a patch in its training data?"""
