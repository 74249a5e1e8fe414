"""`python -m fuzzing [TARGET|all] [SECONDS]`: look for inputs that break the invariant of a target.

A finding is written to .cache/fuzz/TARGET and shown; it becomes a vector once it is mended.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess  # noqa: TID251 - libFuzzer ends its process, so each target gets its own
import sys
import tempfile
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
    return max(_supervise(name, options.seconds, planted=options.planted) for name in names)


def _supervise(name: str, seconds: int, *, planted: bool) -> int:
    """Run one target in a process of its own and say in one line how it ended."""
    command = [sys.executable, "-m", "fuzzing", name, str(seconds), "--child"]
    command += ["--planted"] * planted
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds + 120
    )
    runs = re.search(r"number_of_executed_units: ([0-9]+)", done.stderr)
    told = f"{runs[1]} executions" if runs else "no count"
    if done.returncode == 0:
        sys.stdout.write(f"{name:11} {told}, no findings\n")
        return 0
    sys.stdout.write(f"{name:11} {told}, FOUND:\n{done.stdout[-3000:]}{done.stderr[-1500:]}\n")
    return 1


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
        "-timeout=10",
        "-rss_limit_mb=2048",
    ]
    flags += [f"-artifact_prefix={prefix}/", "-print_final_stats=1"]
    atheris.Setup([name, *flags, str(corpus), str(seeds)], check)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
