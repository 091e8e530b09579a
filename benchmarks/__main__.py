"""The command line: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .affinity import CAN_BIND, usable_cores
from .processes import BenchmarkFailed
from .products import Contender, parse_contender
from .report import Row, as_json, format_rows, make_rows
from .run import Runner
from .suite import BENCHMARKS, scaled

_MOST_SCALE = 25.0
"""Times 200 MB: 5 GB, of which a turn keeps several."""


def _parser() -> argparse.ArgumentParser:
    keys = [benchmark.key for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run Zeolith and ZEO side by side; print ratios of medians.",
        epilog="Benchmarks: " + ", ".join(keys) + ".",
    )
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help="default: all")
    parser.add_argument("-r", "--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "-c",
        "--contenders",
        nargs="+",
        type=parse_contender,
        default=[parse_contender("zeo"), parse_contender("zeolith")],
        metavar="PRODUCT",
        help="zeo, zeolith, or CLIENT:SERVER; ratios are to the first (default: zeo zeolith)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument(
        "--dir", type=Path, help="where databases are written; its disk's fsync is measured"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait for a quiet machine before a turn (default: %(default)s)",
    )
    parser.add_argument(
        "--blob-scale",
        type=_factor,
        default=1.0,
        metavar="FACTOR",
        help="sizes and numbers of blobs times this; below 1 for a quick look (default: 1)",
    )
    return parser


def _factor(text: str) -> float:
    factor = float(text)
    if not 0 < factor <= _MOST_SCALE:
        raise argparse.ArgumentTypeError(f"not above 0 and at most {_MOST_SCALE:g}: {text}")
    return factor


def _about() -> dict[str, str]:
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(len(usable_cores())),
        "ZEO": importlib.metadata.version("ZEO"),
        "uvloop": importlib.metadata.version("uvloop") if has_uvloop else "not installed",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run what *argv* asks for; return the exit status: 0, or 1 if something failed to run."""
    parser = _parser()
    options = parser.parse_args(argv)
    chosen = [
        scaled(b, options.blob_scale) if b.has_blobs else b
        for b in BENCHMARKS
        if b.key in options.benchmarks or not options.benchmarks
    ]
    unknown = set(options.benchmarks) - {benchmark.key for benchmark in BENCHMARKS}
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    contenders: list[Contender] = list(dict.fromkeys(options.contenders))
    about = _about()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    if not CAN_BIND:
        print("This system cannot bind processes to cores: placements are the scheduler's.")
    elif len(usable_cores()) < 2:
        print("Only one core is usable: 'one core each' is one core for both.")

    def say(text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)

    rows: list[Row] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.dir) as folder:
        runner = Runner(Path(folder), options.patience, say)
        for benchmark in chosen:
            say(benchmark.key)
            try:
                rows += make_rows(runner.run(benchmark, contenders, options.rounds))
            except BenchmarkFailed as error:
                failed = True
                print(f"{benchmark.key}: {error}", file=sys.stderr)
    if rows:
        print(format_rows(rows))
    if options.json is not None:
        options.json.write_text(json.dumps({"about": about, "rows": as_json(rows)}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
