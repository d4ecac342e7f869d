"""`python -m stc_lmms.cli`."""

import sys

from stc_lmms.cli.main import main

sys.exit(main())
