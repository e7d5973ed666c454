"""Every operation on masks: windows, run lengths, crops, overlap, boundaries, matching, parts, outlines, distances.

No other package calls pycocotools' mask functions. Arrays are (height, width), rows first; coordinates are x, y in
pixels of the image, right and bottom edges excluded.
"""
