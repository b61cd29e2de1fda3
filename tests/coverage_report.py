"""Report the coverage; of a whole run, ask for 95 %. A chosen part of the tests covers a part."""

import subprocess
import sys

ask = [] if sys.argv[1:] else ["--fail-under=95"]
sys.exit(subprocess.call([sys.executable, "-m", "coverage", "report", *ask]))
