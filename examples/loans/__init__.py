"""Does a model of mortgage decisions depend on race?"""
