"""What each page is given to draw: one dataclass a page, each naming its template.

A template sees the fields of its dataclass and, beside them, what `render.py` adds to every page:
`here` (`page.Here`), `_` and `ngettext` (the reader's language), `asset("main.js")` (a hashed address), and the filters
`bytes`, `number`, `rate`, `when`, `duration`.
"""
