"""The claims of the paper as experiments.

`claims` defines the comparisons, `specs` the runs that they need, `runner` makes these, `records`
stores the results, and `table`, `document` and `report` show them.
"""
