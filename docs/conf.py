"""How are these pages built? With ``make docs``, where every warning is an error."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "firecrestspawner"
author = "firecrestspawner contributors"
copyright = f"2026, {author}"
release = version = metadata.version("firecrestspawner")

extensions = ["myst_parser", "traits"]
exclude_patterns = ["_build", "_ext"]
# Headings can be linked to, as on a forge that shows these files as they are.
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"firecrestspawner {release}"
