"""The label store: instance labels of many images, as frozen rows, as shards, as one sealed Zarr store."""
