"""Does a model of mortgage decisions lean on race?"""
