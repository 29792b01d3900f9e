"""Grids: quantization to few bits, and which scale is best.

Read in this order: ``grid`` (codes, levels, zero points, rounding and its ties; symmetric,
asymmetric, power-of-two), ``minimum`` (the least of a function of the scale, exactly), ``scale``
(scale rules: max-abs, least squared error, per tensor or per channel).
"""
