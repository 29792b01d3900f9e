"""Layers: what a factorized layer computes, what it costs, and how it runs in integers.

Read in this order: ``geometry`` (windows, strides, padding), ``conv`` (the factorized convolution
and linear layer), ``cost`` (bytes, multiplications, bit operations; a rate becomes a rank),
``output`` (calibration: output-aware fits with the inputs' second moment), ``layer`` (compress a
layer in one call, by the default method or another), ``ranges`` (calibration of activations:
histograms, clipping, percentiles), ``integer`` (accumulators, requantization, the layer in
integers).
"""
