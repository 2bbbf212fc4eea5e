"""The documentation as a site: `make site`. The pages stay where they are and are read as they are.

Sphinx reads them through MyST. Warnings are errors, so a link to a page or a heading that is not there ends the build.
"""

project = "Caveat"
author = "The Caveat authors"
copyright = author  # noqa: A001 - Sphinx's name
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "examples/**.md", "helm/caveat/README.md"]
exclude_patterns = [".*", "**/.*"]
nitpicky = True

myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "Caveat"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"light_css_variables": {"font-stack": "system-ui, sans-serif"}}

man_pages = [("docs/command", "caveat", "audit what an ONNX model depends on", "", 1)]
