"""Look at the metadata of every column of Parquet files, as a program: paths in, one line for each.

It runs in a process of its own, because pyarrow ends its process ("terminate called") where the
metadata of a column is damaged in certain ways, and raises an error in others.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import pyarrow.parquet as pq

# Bytes, because names of files need not be UTF-8.
for path in sys.stdin.buffer.read().decode("utf-8", "surrogateescape").split("\0"):
    # Errors are left to the reader of the files, which has sentences for them.
    with suppress(Exception):
        metadata = pq.read_metadata(path)
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for column in range(group.num_columns):
                group.column(column)
    print(flush=True)
