"""Running shards: in process or on Dask, reading ahead, sharing out GPUs."""
