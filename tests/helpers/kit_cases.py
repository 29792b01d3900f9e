"""A few cases written by hand, for tests of the kit that shall not depend on the suite."""

from qcp_ref.conformance.dyadic import pack


def dequantize(codes, scale, zero_point, values, **more):
    return {
        "id": "dequantize.by-hand",
        "since": "0.1",
        "op": "dequantize",
        "needs": [],
        "flags": [],
        "in": {
            "codes": pack(codes, "i8"),
            "scale": pack(scale),
            "zero_point": pack(zero_point, "i8"),
        },
        "options": {},
        "out": {"values": {"kind": "exact", **pack(values)}},
        **more,
    }


PLAIN = dequantize([[-8, 0], [7, 3]], 0.5, 0, [[-4, 0], [3.5, 1.5]], id="dequantize.plain")
ZERO = dequantize([[-8, 0], [7, 3]], 2, 3, [[-22, -6], [8, 0]], id="dequantize.zero")
REFUSED = dequantize([1, 2], "nan", 0, [0, 0], id="refuse.nan", out={"kind": "reject"})
