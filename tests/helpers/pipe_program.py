"""A program that speaks the protocol, without this package and without NumPy.

It has one operation, dequantize. Its arguments say how it writes numbers, what it lets be checked,
and which mistake it makes. Started by the tests as any program is.
"""

import json
import struct
import sys
import time

numbers, mistake = sys.argv[1], sys.argv[2]
checks = sys.argv[3].split()
SPECIAL = {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf"), "-0": -0.0}


def say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def read(data):
    if "hex" in data:
        return [float.fromhex(text) for text in data["hex"]]
    if "bits" in data:
        return [struct.unpack(">d", bytes.fromhex(text))[0] for text in data["bits"]]
    return [SPECIAL[m] if m in SPECIAL else int(m) * 2.0 ** data["e"] for m in data["m"]]


def write(values, shape):
    head = {"t": "f64", "s": shape}
    if numbers == "hex":
        return head | {"hex": [x.hex() for x in values]}
    if numbers == "bits":
        return head | {"bits": [struct.pack(">d", x).hex() for x in values]}
    return head | {"e": -10, "m": [int(x * 1024) for x in values]}


def spoiled(answer):
    values, m = answer["out"]["values"], answer["out"]["values"].get("m", [0])
    changes = {
        "float-m": lambda: values.update(m=[m[0] + 0.5, *m[1:]]),
        "whole-float-m": lambda: values.update(m=[float(m[0]), *m[1:]]),
        "boolean-m": lambda: values.update(m=[True, *m[1:]]),
        "text-m": lambda: values.update(m=["1e3", *m[1:]]),
        "float-e": lambda: values.update(e=-10.0),
        "huge-e": lambda: values.update(e=10**9),
        "float-s": lambda: values.update(s=[2.0, 2]),
        "negative-s": lambda: values.update(s=[-2, -2]),
        "short": lambda: values.update(m=m[1:]),
        "long": lambda: values.update(m=[*m, 0]),
        "both-forms": lambda: values.update(hex=["0x1p+0"] * len(m)),
        "no-type": lambda: values.pop("t"),
        "strange-type": lambda: values.update(t="f16"),
        "strange-key": lambda: values.update(shape=[2, 2]),
        "decimal": lambda: (values.clear(), values.update(t="f64", s=[1], hex=["0.5"])),
        "few-bits": lambda: (values.clear(), values.update(t="f64", s=[1], bits=["3ff"])),
        "integer-hex": lambda: (values.clear(), values.update(t="i8", s=[1], hex=["0x1p+0"])),
        "wide-code": lambda: values.update(t="i8", e=0, m=[200, *m[1:]]),
        "too-fine": lambda: values.update(t="f32", m=[2**24 + 1, *m[1:]]),
        "other-name": lambda: answer["out"].update(value=values),
        "other-key": lambda: answer.update(time=3),
        "two-kinds": lambda: answer.update(error="no"),
        "number-error": lambda: (answer.pop("out"), answer.update(error=3)),
        "number": lambda: answer.update(out={"values": 3}),
        "list": lambda: answer.update(out={"values": [values]}),
    }
    changes[mistake]()
    return answer


kept, buffer, calls = {}, [], 0
for line in sys.stdin:
    request = json.loads(line)
    if mistake == "no-flush":
        time.sleep(60)
    if "hello" in request:
        hello = {"name": "program", "ops": ["dequantize"], "arith": "f64"}
        hello |= {"numbers": numbers, "checks": checks, "nondeterministic": mistake == "noisy"}
        say(hello)
        continue
    if mistake == "endless":
        while True:
            sys.stdout.write("9" * 65536)
    if mistake == "chatters":
        sys.stderr.write("out of shared memory\nsecond line\n" * 10_000)
        sys.stderr.flush()
    calls += 1
    if "again" in request:
        values, shape = kept[request["again"]]
        say({"id": request["id"], "out": {"values": write(values, shape)}})
        continue
    given = request["in"]
    codes, (scale,), (zero,) = (read(given[name]) for name in ("codes", "scale", "zero_point"))
    values = [(k - zero) * scale for k in codes]
    if mistake in ("forgets", "noisy") and calls % 2 == 0:
        values[0] += mistake == "forgets"
        values[1] = -values[1] if values[1] == 0 else values[1]
    if mistake == "overwrites":
        buffer[:] = values
        values = buffer
    kept[request["id"]] = values, given["codes"]["s"]
    answer = {"id": request["id"], "out": {"values": write(values, given["codes"]["s"])}}
    if mistake == "wrong":
        sys.stderr.write("warning: scale is old\n")
        sys.stderr.flush()
        time.sleep(0.05)
        answer["out"]["values"] = write([x + 1 for x in values], given["codes"]["s"])
    if request.get("echo"):
        answer["in"] = dict(given)
        if mistake == "mutates":
            answer["in"]["codes"] = {**given["codes"], "m": [0] * len(codes)}
    if mistake not in ("none", "chatters", "forgets", "noisy", "overwrites", "mutates", "wrong"):
        answer = spoiled(answer)
    say(answer)
