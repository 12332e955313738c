"""``python -m pipeline_workbench``: the command, even where another package's
``workbench`` command stands in its place."""

import sys

from . import main

sys.exit(main())
