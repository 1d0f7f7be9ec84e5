"""`python -m normbench`, the same as `normbench`."""

from normbench.cli import main

main()
