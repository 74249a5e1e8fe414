# ruff: noqa: S311 - a script outside of the package; its dice need no secrecy
"""Any input: events or FormatError, the same whole, cut and indexed; what is accepted re-encodes.

    python fuzz/fuzz_decode.py [--seconds 30] [--seed N]

Valid streams are damaged at random, most often in their headers, and go through
phcbt01.testing.check_input. A finding is printed as hex with its seed, exit status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from phcbt01 import testing

FIELDS = [0, 1, 2, 3, 15, 16, 17, 255, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


def main() -> int:
    """Run until the time is over or something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    runs, accepted = 0, 0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        dice = random.Random(f"{options.seed}/{runs}")
        stream = damaged(dice, valid(dice))
        cuts = [dice.randrange(len(stream) + 1) for _ in range(dice.randrange(6))]
        try:
            accepted += testing.check_input(stream, cuts).fault is None
        except Exception:
            sys.stdout.write(f"seed {options.seed}, run {runs}: {stream.hex()} cut at {cuts}\n")
            raise
        runs += 1
    sys.stdout.write(f"{runs} inputs, {accepted} accepted, seed {options.seed}: no findings\n")
    return 0


def valid(dice: random.Random) -> bytes:
    """Make a valid stream of a few short regions."""
    changes, end = [], 0
    for _ in range(dice.randrange(5)):
        offset = end + dice.choice([0, 1, 100])
        changes.append((offset, dice.randbytes(dice.randint(1, 20))))
        end = offset + len(changes[-1][1])
    return testing.encode(end + dice.choice([0, 1, 50]), changes)


def damaged(dice: random.Random, stream: bytes) -> bytes:
    """Replace a field or a byte, cut, append, or repeat a part; sometimes do nothing."""
    for _ in range(dice.randrange(4)):
        at = dice.randrange(len(stream) + 1)
        field = dice.randrange(len(stream) // 8 + 1) * 8
        value = dice.choice(FIELDS).to_bytes(8, "little")
        stream = dice.choice(
            [
                stream[:field] + value + stream[field + 8 :],
                stream[:at] + value + stream[at + 8 :],
                stream[:at] + dice.randbytes(1) + stream[at + 1 :],
                stream[:at],
                stream[:at] + stream[field:],
                stream + dice.randbytes(dice.randrange(20)),
            ]
        )
    return stream


if __name__ == "__main__":
    sys.exit(main())
