"""`alexnet bench`: what this machine does in a second, ours beside others and beside the machine's own limit.

Every contender is a process of its own that warms up and then runs once whenever it is told to (`serve.py`), so that
two take turns (`contest.py`) whatever framework each needs. `own.py`: ours and the limits; `benchmarks/` of a
checkout: the others.
"""
