"""Find the Chromium that prints the book and tests the site. As a script, print its path."""

import os
import shutil
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
ADVICE = """No Chromium, which make pdf and the site's tests need. Install one, then try again:
   Debian, Ubuntu   sudo apt-get update && sudo apt-get install -y chromium
   Fedora           sudo dnf install chromium
   macOS            brew install --cask google-chrome
   or use another   CHROME=/path/to/chrome make ..."""


def find_chromium() -> str:
    """The path of the browser: the variable CHROME, or the first known name that is installed.

    Raises:
        FileNotFoundError: if there is none. It says how to install one.
    """
    program = os.environ.get("CHROME")
    if program:
        path = shutil.which(program)
        if not path:
            raise FileNotFoundError(f"CHROME={program} is not a program\n{ADVICE}")
        return path
    for name in (*NAMES, str(MAC)):
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(ADVICE)


if __name__ == "__main__":
    try:
        print(f"== browser: {find_chromium()}")
    except FileNotFoundError as error:
        sys.exit(str(error))
