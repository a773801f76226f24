"""`python -m zsclib` is the command `zsc`."""

import sys

from zsclib.cli import main

sys.exit(main())
