"""``python -m app.cli``: the command ``gptqueue``."""

import sys

from app.cli import main

sys.exit(main())
