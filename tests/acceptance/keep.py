"""Run a module, and again whenever it ends with an error, as a service manager does."""

import subprocess
import sys
import time

while subprocess.call([sys.executable, "-m", *sys.argv[1:]]):
    time.sleep(1)
