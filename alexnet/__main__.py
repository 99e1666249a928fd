"""`python -m alexnet` is `alexnet`."""

from alexnet.cli import main

main()
