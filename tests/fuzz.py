"""Draw many hostile calls, see test_fuzz, and count how they end.

python tests/fuzz.py                # 20,000 calls by Hypothesis
python tests/fuzz.py --minutes 15   # guided by coverage of the Python code; needs atheris
"""

import argparse
import os
import sys
import time
from collections import Counter

from hypothesis import HealthCheck, given, seed, settings


class Tally:
    """Counts how calls end, and keeps the longest time."""

    def __init__(self, outcome):
        self.outcome, self.ended, self.slowest = outcome, Counter(), 0.0

    def __call__(self, call):
        kind, seconds = self.outcome(call)
        self.ended[call.function, kind] += 1
        self.slowest = max(self.slowest, seconds)

    def show(self):
        for (function, kind), count in sorted(self.ended.items()):
            print(f"{function:22} {kind:12} {count:9,}")
        total = sum(self.ended.values())
        print(f"{total:,} calls; the slowest took {self.slowest:.2f} s", flush=True)


def guided(atheris, test, tally, minutes):
    """Let coverage choose the bytes that calls are drawn from; ends the process."""
    end = time.monotonic() + 60 * minutes

    def one_input(data):
        test.hypothesis.fuzz_one_input(data)
        if time.monotonic() > end:
            tally.show()
            os._exit(0)

    atheris.Setup([sys.argv[0], "-max_len=4096", "-len_control=0", "-rss_limit_mb=0"], one_input)
    atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="guided by coverage, for so long")
    arguments = parser.parse_args()
    if arguments.minutes is not None:
        import atheris

        with atheris.instrument_imports(include=["slidedot"]):
            import slidedot  # noqa: F401  before anything else imports it
    from test_fuzz import hostile_calls, outcome

    tally = Tally(outcome)

    @seed(arguments.seed)
    @settings(
        max_examples=arguments.calls,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(call=hostile_calls())
    def draw_calls(call):
        tally(call)

    if arguments.minutes is not None:
        guided(atheris, draw_calls, tally, arguments.minutes)
    draw_calls()
    tally.show()


if __name__ == "__main__":
    main()
