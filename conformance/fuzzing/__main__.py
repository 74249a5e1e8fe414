"""`python -m fuzzing [TARGET|all] [SECONDS]`: look for inputs that break the invariant of a target.

Each target gets so many seconds; as many run at a time as there are processors. A finding is
written to .cache/fuzz/TARGET and shown; it becomes a vector once it is mended.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess  # noqa: TID251 - libFuzzer ends its process, so each target gets its own
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import atheris

from fuzzing.targets import LARGEST_SEED, MEMBERS, TARGETS

FOLDER = MEMBERS / ".cache/fuzz"


def main() -> int:
    """Fuzz one target or all of them; 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__)
    parser.add_argument("target", nargs="?", default="all", choices=["all", *TARGETS])
    parser.add_argument("seconds", nargs="?", type=int, default=60, help="for each target")
    parser.add_argument("--planted", action="store_true", help="with the target's planted bug")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return _fuzz(options.target, options.seconds, planted=options.planted)
    names = list(TARGETS) if options.target == "all" else [options.target]
    supervise = partial(_supervise, seconds=options.seconds, planted=options.planted)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return max(pool.map(supervise, names))


def _supervise(name: str, *, seconds: int, planted: bool) -> int:
    """Run one target in a process of its own and say in one line how it ended."""
    command = [sys.executable, "-m", "fuzzing", name, str(seconds), "--child"]
    command += ["--planted"] * planted
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds + 300
    )
    runs = re.search(r"number_of_executed_units: ([0-9]+)", done.stderr)
    told = f"{runs[1]} executions" if runs else "no count"
    if done.returncode == 0:
        text = f"{name:11} {told}, no findings\n"
    else:
        text = f"{name:11} {told}, FOUND:\n{done.stdout[-3000:]}{done.stderr[-1500:]}\n"
    sys.stdout.write(text)
    sys.stdout.flush()
    return int(done.returncode != 0)


def _fuzz(name: str, seconds: int, *, planted: bool) -> int:
    target = TARGETS[name]
    with atheris.instrument_imports(include=list(target.packages)):
        check = target.load().check
        if planted:
            from fuzzing.planted import PLANTED  # noqa: PLC0415 - the packages are instrumented first

            PLANTED[name]()
    artifacts = FOLDER / name
    artifacts.mkdir(parents=True, exist_ok=True)
    corpus = Path(tempfile.mkdtemp(prefix=f"corpus-{name}-")) if planted else artifacts / "corpus"
    seeds = Path(tempfile.mkdtemp(prefix=f"seeds-{name}-"))
    corpus.mkdir(exist_ok=True)
    for data in target.seeds():
        (seeds / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    prefix = seeds if planted else artifacts
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={LARGEST_SEED}",
        "-timeout=60",  # of a unit, by the clock: the machine may have other work
        "-rss_limit_mb=2048",
    ]
    flags += [f"-artifact_prefix={prefix}/", "-print_final_stats=1"]
    atheris.Setup([name, *flags, str(corpus), str(seeds)], check)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
