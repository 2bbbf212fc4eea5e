"""Does a network read the picture, or the caption written on it? (Kim et al. 2018, section 4.3)"""
