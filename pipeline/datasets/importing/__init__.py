"""Annotations in other formats, turned into COCO files. `docs/formats.md` describes what is read of each.

`reading.import_annotations` reads a source in full, reports everything that is wrong with it at once, by file and
element, and writes a COCO file that the checks of `data check` accept. A module for each format returns its images
with their instances; `source` has what they share.
"""
