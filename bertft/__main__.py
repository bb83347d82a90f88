"""`python -m bertft` is the command `bertft`."""

from bertft.cli import main

raise SystemExit(main())
