"""Every claim of the paper as an experiment: `claims` says what is compared, `runner` runs it, `table` tells it."""
