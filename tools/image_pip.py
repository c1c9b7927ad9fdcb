"""Writes what pip goes by here into a folder, for the pip inside an image build.

    python3 tools/image_pip.py FOLDER

FOLDER/pip.conf says where packages come from, FOLDER/pip-ca, if there is one, whom to trust. They
are handed to the build as secrets: no address ends up in the image, or in this repository.
"""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

PASSED = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")


def settings() -> dict[str, str]:
    """pip's own settings by name; the environment wins over the files."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = {}
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, name = name.rpartition(".")
        if section in ("global", "site", ":env:"):
            found[name] = str(ast.literal_eval(value))
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    found = settings()
    # A list has a line for each; the next ones are indented.
    lines = [f"{name} = " + "\n    ".join(found[name].split()) for name in PASSED if name in found]
    (folder / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    trusted = found.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE")
    if trusted and Path(trusted).is_file():
        shutil.copyfile(trusted, folder / "pip-ca")


if __name__ == "__main__":
    main()
