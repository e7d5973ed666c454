"""The columnar store on Zarr: declared columns, shards, sealing, verifying, reading."""
