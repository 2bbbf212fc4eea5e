"""Does a network call a photograph a carton because of a watermark?"""
