"""The smallest tool for `cnp bench emission --tool`: an assembler in Python that speaks docs/bench-protocol.md.

    cnp bench emission --tool 'mine=python examples/assemblers/assembler.py'

It writes every jump and every displacement in its long form.
"""

import json
import struct
import sys
import time

OPCODES = {
    1: b"\x48\x03\x87",
    2: b"\x48\x2b\x87",
    3: b"\x48\x0f\xaf\x87",
}  # add, sub, imul rax, [rdi + disp32]
LOAD, STORE, COMPARE = b"\x48\x8b\x87", b"\x48\x89\x87", b"\x48\x3b\x87"
MOVE, LESS, JUMP, RETURN = b"\x48\xb8", b"\x0f\x8c", b"\xe9", b"\xc3"


def assemble(records):
    """The code of a list of (op, d, a, b, imm)."""
    code, places, jumps = bytearray(), [], []
    for op, d, a, b, imm in records:
        places.append(len(code))
        if op == 0:
            code += MOVE + struct.pack("<Q", imm) + STORE + struct.pack("<i", 8 * d)
        elif op <= 3:
            code += LOAD + struct.pack("<i", 8 * a) + OPCODES[op] + struct.pack("<i", 8 * b)
            code += STORE + struct.pack("<i", 8 * d)
        elif op == 6:
            code += RETURN
        else:
            if op == 4:
                code += LOAD + struct.pack("<i", 8 * a) + COMPARE + struct.pack("<i", 8 * b)
            code += (LESS if op == 4 else JUMP) + bytes(4)
            jumps.append((len(code), d))
    for end, goal in jumps:
        struct.pack_into("<i", code, end - 4, places[goal] - end)
    return code


def main(source, out, times):
    with open(source, "rb") as file:
        records = list(struct.iter_unpack("<4iQ", file.read()))
    code = assemble(records)  # once before the clock runs
    begun = time.thread_time_ns()
    for _ in range(times):
        code = assemble(records)
    taken = time.thread_time_ns() - begun
    with open(out, "wb") as file:
        file.write(code)
    print(json.dumps({"ns": taken / times, "version": "1"}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
