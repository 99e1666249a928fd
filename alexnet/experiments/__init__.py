"""The claims of the paper as experiments.

`claims` defines the comparisons, `runner` runs them, `records` stores the results, and `table` and
`report` show them.
"""
