"""Numbers, tables, charts and HTML pages for people."""
