"""Is a result right?

``verdict`` is what is said of one result, ``certificates`` are for results that are not unique,
``judge`` decides on every case. Tolerances are proven, in docs/theory/conformance.rst, and none is
chosen by hand. Nothing here knows how an implementation is called.
"""
