"""Measuring a bundle: does the histogram control the lesion, and does the lesion look real?"""
