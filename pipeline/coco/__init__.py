"""COCO instance files: read and checked once, in one way, for every stage.

`reading.read_coco` returns a checked dataset or raises `DatasetError` with every problem found.
`checking.check_coco` reports the same errors, and also warnings.

Errors: what no stage could use, or would use wrongly.
    file        unreadable, empty, not JSON, not an object at the top; `images`, `annotations` or `categories`
                missing or not a list; no image at all
    ids         missing, not integers of 64 bits (text is not allowed as an id), used twice
    references  an annotation of an image or a category that is not in the file
    images      width or height not positive whole numbers, more pixels than this pipeline reads, a file name
                that could leave the image folder (see `paths.resolve_image_path`)
    categories  a name that is empty or not text
    numbers     NaN, Infinity, text or true/false where a number belongs, a negative area
    boxes       negative width or height, outside the image, or reaching further beyond its border than the
                image is wide or high
    polygons    an empty list, fewer than 3 points, an odd count of coordinates, coordinates as far outside
    RLE         of another size than the image, counts that do not decode or do not add up to its pixels

Warnings: reported by `check_coco` only, because real data sets have them and the stages handle them.
    boxes without width or height (COCO train2017 has two), boxes over the border by more than a pixel, boxes
    or areas that do not fit their mask, masks without a pixel, annotation id 0 (pycocotools' evaluation reads
    it as "not found"), file names or category names used twice, categories and images without instances

`area` and `iscrowd` may be missing: the mask's own area and 0 are used. Keys other than those of instances
are ignored. `segmentation` is kept as it is in the file and decoded only when needed.
"""
