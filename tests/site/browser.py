"""Find a Chromium for the site's tests; as a script, say where it is or how to get one."""

import os
import shutil
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
ADVICE = """No Chromium for the site's tests. Install one, then run make test again:
   Debian, Ubuntu   sudo apt-get update && sudo apt-get install -y chromium
   Fedora           sudo dnf install chromium
   macOS            brew install --cask google-chrome
   or name one      CHROME=/path/to/chrome make test"""


def find_chromium() -> str:
    """The browser's path: the variable CHROME, else the first known name.

    Raises FileNotFoundError that says how to get one.
    """
    chosen = os.environ.get("CHROME")
    if chosen:
        found = shutil.which(chosen)
        if not found:
            raise FileNotFoundError(f"CHROME={chosen} is not a program\n{ADVICE}")
        return found
    for candidate in (*NAMES, str(MAC)):
        if found := shutil.which(candidate):
            return found
    raise FileNotFoundError(ADVICE)


if __name__ == "__main__":
    try:
        print(f"== browser for the site's tests: {find_chromium()}")
    except FileNotFoundError as missing:
        sys.exit(str(missing))
